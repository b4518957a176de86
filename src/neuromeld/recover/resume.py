"""The unfinished run beside the output, and whether a run may go on from it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuromeld.runtime.workspace import open_workspace


@contextmanager
def work_in(work: Path, identity: dict[str, Any], *, force: bool) -> Iterator[Path | None]:
    """The folder for the length of a run with this identity; yields the checkpoint it goes on from, if any.

    identity   everything that decides the result, as plain values
    force      discard an unfinished run with another identity, which otherwise is a `UserInputError`

    The folder is removed at the end of the block, or on an exception before the first checkpoint.
    """
    with open_workspace(work, lambda: _last_checkpoint(work) is not None) as workspace:
        workspace.begin({"job": "recover"} | identity, force=force)
        yield _last_checkpoint(work)


def _last_checkpoint(work: Path) -> Path | None:
    """The latest checkpoint that was written to its end; later, broken ones are removed."""
    for folder in sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))  # Trainer writes it last
            return folder
        except (OSError, ValueError):
            shutil.rmtree(folder)
    return None
