"""The unfinished run beside the output, and whether a run may go on from it."""

import hashlib
import json
import shutil
from pathlib import Path

from neuromeld.runtime.journal import SUFFIX
from neuromeld.runtime.progress import warn
from neuromeld.runtime.workspace import write_whole

CHECKSUMS = "checksums.json"
"""sha256 of every file of a checkpoint, written last."""


LAYERWISE = "layerwise-"
"""What the steps of layers that were trained by themselves are called, before their numbers."""


def holds_work(work: Path) -> bool:
    """Tell whether a work folder holds what a run may go on from: layers that were trained, or a checkpoint."""
    return any(work.glob(f"{LAYERWISE}*{SUFFIX}")) or last_checkpoint(work) is not None


def write_checksums(checkpoint: Path) -> None:
    """Say of a checkpoint that has just been written what is in it: without that, it does not count."""
    sums = {path.name: _sha256(path) for path in sorted(checkpoint.iterdir()) if path.is_file()}
    write_whole(checkpoint / CHECKSUMS, lambda path: path.write_text(json.dumps(sums), encoding="utf-8"))


def last_checkpoint(work: Path) -> Path | None:
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
