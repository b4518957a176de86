"""The hidden folder beside an output in which a long job keeps what it has done.

One job at a time works there, and only the same job goes on from what it finds.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from neuromeld.errors import CheckpointError, NeuromeldError, OccupiedError, PausedError
from neuromeld.runtime.progress import warn

IDENTITY = "identity.json"
LOCK = "lock"
MARKER = "neuromeld-work"
"""An empty file that says whose folder it is."""

COMPRESSED = "compressed"
"""A checkpoint that is trained before it is the output."""

OURS = re.compile(
    rf"{MARKER}|{LOCK}|{re.escape(IDENTITY)}"
    r"|.+\.safetensors|.+\.unfinished|tmp\w{8}"  # steps, statistics, and what is written beside them
    rf"|{COMPRESSED}"  # the checkpoint that a training begins with
    r"|\..+\.(partial|replaced)-[0-9a-f]{8}"  # of the output
)
"""The names of what is written here; nothing else is ever removed."""

PASSING = re.compile(r".+\.unfinished|tmp\w{8}|\..+\.partial-[0-9a-f]{8}")
"""Those that mean nothing once the process that wrote them has died."""


class Workspace:
    """A folder that this process alone works in; `open_workspace` makes one."""

    def __init__(self, folder: Path, holds_work: Callable[[], bool]) -> None:
        self.folder = folder
        self._holds_work = holds_work
        self._begun = 0
        self.is_ours = False
        """Whether what is kept here belongs to the job that is running."""

    def begin(self, identity: Mapping[str, Any], *, force: bool) -> None:
        """Say what decides the result of the next part of the job, as plain values.

        Work that was done under another identity is a `UserInputError` that names the differences; with `force` it is
        discarded, as is a folder without work.
        """
        stated = json.loads(json.dumps(identity))
        identities = self._identities()
        if not identities and not self._begun:
            self._clear()  # steps of nobody knows what
        earlier, known = identities[: self._begun], identities[self._begun : self._begun + 1]
        self._begun += 1
        differences = _differences(known[0], stated) if known else ""
        if known and not differences:
            self.is_ours = True
            return
        if known:
            if self._holds_work() and not force:
                raise OccupiedError(
                    f"{self.folder} holds an unfinished run that is not this one: {differences}. To "
                    "go on with it give the same arguments again; to discard it pass --force (force=True) or remove "
                    "that folder"
                )
            self._clear()
        write_whole(self.folder / IDENTITY, lambda path: path.write_text(json.dumps([*earlier, stated])))
        self.is_ours = True

    def _identities(self) -> list[dict[str, Any]]:
        path = self.folder / IDENTITY
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(isinstance(part, dict) for part in found):
            warn(f"{path} is damaged: what was done of an unfinished job is done again")
            return []
        return found

    def tidy(self) -> None:
        """Remove what a process that was killed left half-written, and put back an output that it had set aside."""
        for path in self.folder.iterdir():
            if PASSING.fullmatch(path.name):
                _remove(path)
            elif ".replaced-" in path.name:
                out = self.folder.parent / path.name[1:].rpartition(".replaced-")[0]
                _remove(path) if out.exists() else path.rename(out)

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name not in (LOCK, MARKER) and OURS.fullmatch(path.name):
                _remove(path)

    def remove(self) -> None:
        """Remove the folder, the lock last: whoever waits for it finds a new folder or none."""
        self._clear()
        (self.folder / MARKER).unlink(missing_ok=True)
        (self.folder / LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # another process may have come in already
            self.folder.rmdir()


def work_folder(out: Path) -> Path:
    """Return where a job that will write `out` keeps what it has done."""
    out = out.resolve()
    return out.with_name(f".{out.name}.work")


@contextmanager
def open_workspace(folder: Path, holds_work: Callable[[], bool]) -> Iterator[Workspace]:
    """Make the folder, or find it, and lock it for the length of the block.

    holds_work   whether the folder holds what is worth going on from

    It is removed at the end, and on an exception where it holds no work, or work that the same error would end again.
    `OccupiedError` while another process has it (a process that died has it no more), and where somebody else has
    something there.
    """
    check_work_folder(folder)
    created = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()
        lock = FileLock(folder / LOCK, blocking=False)
        lock.acquire()
    except Timeout:
        raise OccupiedError(
            f"another job is writing the same output (it holds {folder / LOCK}); wait for its end or name "
            "another folder"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written ({error.strerror}); name an output elsewhere") from error
    with lock:
        workspace = Workspace(folder, holds_work)
        workspace.tidy()
        try:
            yield workspace
        except BaseException as error:
            hopeless = workspace.is_ours and isinstance(error, NeuromeldError) and not error.keeps_work
            if hopeless or not holds_work():
                workspace.remove()
                for parent in created:
                    with suppress(OSError):  # somebody else's, meanwhile
                        parent.rmdir()
            raise
        workspace.remove()


def check_work_folder(folder: Path) -> None:
    """Raise `OccupiedError` where a work folder is somebody else's: nothing there is used, and nothing removed."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OccupiedError(f"{folder} is not a folder, and a job keeps there what it has done; move it away")
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    strange = [path.name for path in found if path.is_symlink() or not OURS.fullmatch(path.name)]
    names = [path.name for path in found]
    if not strange and MARKER not in names:
        strange = [name for name in names if name != LOCK]
    if strange:
        raise OccupiedError(
            f"{folder}, where a job keeps what it has done, holds what this version of neuromeld did not write "
            f"({', '.join(strange[:5])}); move that folder away, or name another output"
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file that appears at `path` whole, and on the disk, or not at all."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with naming_full_disk(path.parent):
        try:
            write(unfinished)
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; `CheckpointError` where it cannot be."""
    try:
        write_whole(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error
    except ValueError as error:  # no name of a file, or text that is none
        raise CheckpointError(f"{str(path)!r} cannot be written: {error}") from error


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Make it a `PausedError` where the system refuses to write more to `folder`."""
    try:
        yield
    except BaseException as error:
        if not is_disk_full(error):
            raise
        free = shutil.disk_usage(folder).free
        raise PausedError(f"the disk that holds {folder} is full: {free:,} bytes are free") from error


def is_disk_full(error: BaseException) -> bool:
    """Tell whether the system refused to write more: the disk, a quota or the limit of a file's size."""
    if isinstance(error, SafetensorError):  # it keeps the system's error number in its text only
        return any(f"os error {number}" in str(error) for number in _FULL)
    return isinstance(error, OSError) and error.errno in _FULL


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Empty where there is none; what is not stated is None."""
    old, new = _flat(before), _flat(now)
    return "; ".join(
        f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    )


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys joined by dots, so that a difference is named where it is."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
