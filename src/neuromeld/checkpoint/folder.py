"""An output folder that appears complete or not at all, in a place where nothing of anybody else's is."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from neuromeld.errors import OccupiedError, PausedError, UserInputError
from neuromeld.runtime.workspace import is_disk_full

WRITTEN_LATER = ("README.md", "record.json", "report.html")
"""What is written into a finished checkpoint, too: by `report`, and by `evaluate --save`."""

SHOWN = 5
"""Names of strange files in a message."""

LONGEST_NAME = 255 - len(".replaced-") - 9
"""Bytes of a folder's name, so that its hidden neighbours can be named after it."""


def check_free(out: Path, *, force: bool, source: str | Path | None = None) -> None:
    """Raise `UserInputError` unless `out` can be written: asked early, before hours of work.

    force    an existing folder may be replaced, if it is empty or holds what this program wrote and nothing else
    source   the model that is read: neither may lie in the other, also through links
    """
    try:
        _check_place(out)
        occupied = out.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserInputError(f"{str(out)[:80]!r} cannot be the output: {error}") from None
    if source is not None:
        _check_apart(out, Path(source))
    if occupied and not force:
        raise OccupiedError(f"{out} exists; name another folder, or pass --force (force=True) to replace it")
    if occupied and (strange := strange_files(out)):
        raise OccupiedError(
            f"--force does not replace {out}, as it holds what this program did not write: {_listed(strange)}; "
            "move that away, or name another folder"
        )


def _check_place(out: Path) -> None:
    if out == Path("-"):
        raise UserInputError("- stands for standard output, and a checkpoint is a folder; name the folder otherwise")
    if out.is_symlink():
        raise UserInputError(f"{out} is a link to {out.readlink()}; name the folder itself")
    if len(os.fsencode(out.resolve().name)) > LONGEST_NAME:
        raise UserInputError(f"{out.name[:40]}... is too long a name: {LONGEST_NAME} bytes are the most")
    if out.exists():
        if not out.is_dir():
            raise UserInputError(f"{out} is a file; name a folder that does not exist yet")
        return
    parent = next(folder for folder in out.resolve().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserInputError(f"{out} cannot be created: {parent} is not a folder that can be written to")


def _check_apart(out: Path, source: Path) -> None:
    """`UserInputError` where one of two paths lies in the other, or a file of the source is a link into `out`."""
    try:
        read = [source.expanduser(), *(source.expanduser().iterdir() if source.expanduser().is_dir() else ())]
        here, paths = out.resolve(), [path.resolve() for path in read]
    except (OSError, ValueError, RuntimeError):
        return  # no path at all: what it is, `locate` says
    if not paths[0].exists():
        return
    if any(path.is_relative_to(here) for path in paths) or here.is_relative_to(paths[0]):
        raise UserInputError(
            f"the model {source} and the output {out} lie in one another, and the original would be written over; "
            "name an output elsewhere"
        )


def strange_files(folder: Path) -> list[str]:
    """Return what is in a folder that this program did not write, or enough of it to say so, by names relative to the
    folder.

    That is everything, unless a record says what was written.  Links are strange, and so are empty folders.
    """
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        written = set(record["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return sorted(path.name for path in folder.iterdir())
    strange: list[str] = []
    for place, folders, files in os.walk(folder):
        paths = [Path(place, name) for name in (*folders, *files)]
        strange += [
            name
            for path in paths
            if (name := path.relative_to(folder).as_posix()) not in written or path.is_symlink()
            if path.is_symlink() or not path.is_dir() or not any(path.iterdir())
        ]
        if len(strange) > SHOWN:
            break
    return sorted(strange)


def written_files(folder: Path) -> list[str]:
    """Return what a record says was written, by which the folder is known again: the files in it, and those to come."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return sorted(files | set(WRITTEN_LATER))


@contextmanager
def new_folder(out: Path, *, force: bool, beside: Path | None = None) -> Iterator[Path]:
    """Yield a fresh folder, renamed to `out` at the end of the block; on any exception it is removed.

    beside   where on the same disk it lies until then; by default it is a hidden neighbour of `out`

    With `force`, the folder that `out` was is removed only after the rename.  A full disk is a `PausedError`.
    """
    check_free(out, force=force)
    out = out.resolve()
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
            raise PausedError(
                f"the disk that holds {out} is full: more than {written:,} bytes are needed, "
                f"{shutil.disk_usage(out.parent).free:,} are free"
            ) from error
        raise


def check_space(folder: Path, needed: int) -> None:
    """Raise `PausedError` if `needed` bytes do not fit on the disk that holds `folder`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise PausedError(f"the disk that holds {folder} is full: {needed:,} bytes are needed, {free:,} are free")


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
    """Return a name on the same disk, so that renaming is atomic."""
    return beside / f".{out.name}.{what}-{secrets.token_hex(4)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" and more" if len(names) > SHOWN else "")
