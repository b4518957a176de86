"""An output folder that appears complete or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuromeld.errors import CheckpointError, UserInputError
from neuromeld.runtime.workspace import is_disk_full


def check_free(out: Path, *, force: bool) -> None:
    """Raise `UserInputError` unless `out` can be written: asked early, before hours of work.

    With `force` an existing folder may be replaced, if it is empty or a checkpoint.
    """
    out = out.resolve()
    if not out.exists():
        parent = next(folder for folder in out.parents if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserInputError(f"{out} cannot be created: {parent} is not a folder that can be written to")
    elif not out.is_dir():
        raise UserInputError(f"{out} is a file; name a folder that does not exist yet")
    elif not force:
        raise UserInputError(f"{out} exists; name another folder, or pass --force (force=True) to replace it")
    elif any(out.iterdir()) and not (out / "config.json").is_file():
        raise UserInputError(
            f"{out} is not a checkpoint (it has no config.json), so --force does not replace it; remove it yourself"
        )


@contextmanager
def new_folder(out: Path, *, force: bool, beside: Path | None = None) -> Iterator[Path]:
    """A fresh folder, renamed to `out` at the end of the block; on any exception it is removed.

    beside   where on the same disk it lies until then; by default it is a hidden neighbour of `out`

    With `force`, the folder that `out` was is removed only after the rename.  A full disk is a `CheckpointError`.
    """
    out = out.resolve()
    check_free(out, force=force)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = beside or out.parent
    partial = _sibling(out, "partial", beside)
    partial.mkdir()
    try:
        yield partial
        check_free(out, force=force)  # hours may have passed
        _move(partial, out, beside)
    except BaseException as error:
        written = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
        shutil.rmtree(partial, ignore_errors=True)
        if is_disk_full(error):
            raise CheckpointError(
                f"the disk that holds {out} is full: more than {written:,} bytes are needed, "
                f"{shutil.disk_usage(out.parent).free:,} are free"
            ) from error
        raise


def check_space(folder: Path, needed: int) -> None:
    """Raise `CheckpointError` if `needed` bytes do not fit on the disk that holds `folder`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(f"the disk that holds {folder} is full: {needed:,} bytes are needed, {free:,} are free")


def _move(partial: Path, out: Path, beside: Path) -> None:
    if not out.exists():
        partial.rename(out)
        return
    aside = _sibling(out, "replaced", beside)
    out.rename(aside)
    try:
        partial.rename(out)
    except BaseException:
        aside.rename(out)
        raise
    shutil.rmtree(aside)


def _sibling(out: Path, what: str, beside: Path) -> Path:
    """A name on the same disk, so that renaming is atomic."""
    return beside / f".{out.name}.{what}-{secrets.token_hex(4)}"
