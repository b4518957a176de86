"""The folder beside the output that holds an unfinished run, and whether a run may go on from it."""

import json
import shutil
from pathlib import Path
from typing import Any

from neuromeld.errors import UserInputError

IDENTITY = "identity.json"


def work_folder(out: Path) -> Path:
    """Where the run that will write `out` keeps its checkpoints."""
    out = out.resolve()
    return out.with_name(f".{out.name}.recover")


def open_work(work: Path, identity: dict[str, Any], *, force: bool) -> Path | None:
    """Make the folder ready for a run with this identity, and return the checkpoint it goes on from, if any.

    identity   everything that decides the result, as plain values
    force      discard an unfinished run with another identity, which otherwise is a `UserInputError`
    """
    checkpoint = _last_checkpoint(work)
    if checkpoint is not None:
        before = json.loads((work / IDENTITY).read_text(encoding="utf-8"))
        differences = [
            f"{key} was {before.get(key)!r} and is {identity.get(key)!r}"
            for key in sorted(before.keys() | identity.keys())
            if before.get(key) != identity.get(key)
        ]
        if not differences:
            return checkpoint
        if not force:
            raise UserInputError(
                f"{work} holds an unfinished run that is not this one: {'; '.join(differences)}. To go on with it give "
                "the same arguments again; to discard it pass --force (force=True)"
            )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / IDENTITY).write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
    return None


def _last_checkpoint(work: Path) -> Path | None:
    """The latest checkpoint that was written to its end; later, broken ones are removed."""
    for folder in sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))  # Trainer writes it last
            return folder
        except (OSError, ValueError):
            shutil.rmtree(folder)
    return None
