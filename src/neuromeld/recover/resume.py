"""The folder beside the output that holds an unfinished run, and whether a run may go on from it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuromeld.errors import UserInputError

IDENTITY = "identity.json"


def work_folder(out: Path) -> Path:
    """Where the run that will write `out` keeps its checkpoints."""
    out = out.resolve()
    return out.with_name(f".{out.name}.recover")


@contextmanager
def work_in(work: Path, identity: dict[str, Any], *, force: bool) -> Iterator[Path | None]:
    """The folder for the length of a run with this identity; yields the checkpoint it goes on from, if any.

    identity   everything that decides the result, as plain values
    force      discard an unfinished run with another identity, which otherwise is a `UserInputError`

    The folder is removed at the end of the block, or on an exception before the first checkpoint.
    """
    checkpoint = _resumable(work, identity, force=force)
    if checkpoint is None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        (work / IDENTITY).write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
    try:
        yield checkpoint
    except BaseException:
        if _last_checkpoint(work) is None:
            shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work)


def _resumable(work: Path, identity: dict[str, Any], *, force: bool) -> Path | None:
    checkpoint = _last_checkpoint(work)
    if checkpoint is None:
        return None
    before = json.loads((work / IDENTITY).read_text(encoding="utf-8"))
    differences = [
        f"{key} was {before.get(key)!r} and is {identity.get(key)!r}"
        for key in sorted(before.keys() | identity.keys())
        if before.get(key) != identity.get(key)
    ]
    if differences and not force:
        raise UserInputError(
            f"{work} holds an unfinished run that is not this one: {'; '.join(differences)}. To go on with it give "
            "the same arguments again; to discard it pass --force (force=True)"
        )
    return None if differences else checkpoint


def _last_checkpoint(work: Path) -> Path | None:
    """The latest checkpoint that was written to its end; later, broken ones are removed."""
    for folder in sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))  # Trainer writes it last
            return folder
        except (OSError, ValueError):
            shutil.rmtree(folder)
    return None
