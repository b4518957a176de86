"""The unfinished run beside the output, and whether a run may go on from it."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuromeld.runtime.progress import warn
from neuromeld.runtime.workspace import open_workspace, write_whole

CHECKSUMS = "checksums.json"
"""sha256 of every file of a checkpoint, written last."""


@contextmanager
def work_in(work: Path, identity: dict[str, Any], *, force: bool) -> Iterator[Path | None]:
    """Lock the folder of a run with this identity; yield the checkpoint it goes on from, if any.

    identity   everything that decides the result, as plain values
    force      discard an unfinished run with another identity, which otherwise is a `UserInputError`

    The folder is removed at the end of the block, or on an exception before the first checkpoint.
    """
    with open_workspace(work, lambda: _last_checkpoint(work) is not None) as workspace:
        workspace.begin({"job": "recover"} | identity, force=force)
        yield _last_checkpoint(work)


def write_checksums(checkpoint: Path) -> None:
    """Say of a checkpoint that has just been written what is in it: without that, it does not count."""
    sums = {path.name: _sha256(path) for path in sorted(checkpoint.iterdir()) if path.is_file()}
    write_whole(checkpoint / CHECKSUMS, lambda path: path.write_text(json.dumps(sums), encoding="utf-8"))


def _last_checkpoint(work: Path) -> Path | None:
    """Return the latest checkpoint that is as it was written; remove later ones, with a warning if they were whole."""
    found = [path for path in work.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    for folder in sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        if _is_sound(folder):
            return folder
        if (folder / CHECKSUMS).exists():
            warn(f"{folder} is damaged, and discarded: the run goes on from an earlier checkpoint, or starts again")
        shutil.rmtree(folder)
    return None


def _is_sound(checkpoint: Path) -> bool:
    try:
        sums = json.loads((checkpoint / CHECKSUMS).read_text(encoding="utf-8"))
        return isinstance(sums, dict) and bool(sums) and all(_sha256(checkpoint / name) == sums[name] for name in sums)
    except (OSError, ValueError, RecursionError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
