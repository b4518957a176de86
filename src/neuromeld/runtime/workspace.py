"""The hidden folder beside an output in which a long job keeps what it has done.

One job at a time works there, and only the same job goes on from what it finds.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from neuromeld.errors import CheckpointError, UserInputError

IDENTITY = "identity.json"
LOCK = "lock"


class Workspace:
    """A folder that this process alone works in; `open_workspace` makes one."""

    def __init__(self, folder: Path, holds_work: Callable[[], bool]) -> None:
        self.folder = folder
        self._holds_work = holds_work
        self._begun = 0

    def begin(self, identity: Mapping[str, Any], *, force: bool) -> None:
        """Say what decides the result of the next part of the job, as plain values.

        Work that was done under another identity is a `UserInputError` that names the differences; with `force` it is
        discarded, as is a folder without work.
        """
        stated = json.loads(json.dumps(identity))
        identities = self._identities()
        earlier, known = identities[: self._begun], identities[self._begun : self._begun + 1]
        self._begun += 1
        differences = _differences(known[0], stated) if known else ""
        if known and not differences:
            return
        if known:
            if self._holds_work() and not force:
                raise UserInputError(
                    f"{self.folder} holds an unfinished run that is not this one: {differences}. To "
                    "go on with it give the same arguments again; to discard it pass --force (force=True) or remove "
                    "that folder"
                )
            self._clear()
        write_whole(self.folder / IDENTITY, lambda path: path.write_text(json.dumps([*earlier, stated])))

    def _identities(self) -> list[dict[str, Any]]:
        path = self.folder / IDENTITY
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        return found

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def remove(self) -> None:
        """Remove the folder, the lock last: whoever waits for it finds a new folder or none."""
        self._clear()
        (self.folder / LOCK).unlink()
        with suppress(OSError):  # another process may have come in already
            self.folder.rmdir()


def work_folder(out: Path) -> Path:
    """Where a job that will write `out` keeps what it has done."""
    out = out.resolve()
    return out.with_name(f".{out.name}.work")


@contextmanager
def open_workspace(folder: Path, holds_work: Callable[[], bool]) -> Iterator[Workspace]:
    """Make the folder, or find it, and lock it for the length of the block.

    holds_work   whether the folder holds what is worth going on from

    It is removed at the end, and on an exception where it holds no work.  `UserInputError` while another process has
    it; a process that died has it no more.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, blocking=False)
        lock.acquire()
    except Timeout:
        raise UserInputError(
            f"another job is writing the same output (it holds {folder / LOCK}); wait for its end or name "
            "another folder"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written ({error.strerror}); name an output elsewhere") from error
    with lock:
        workspace = Workspace(folder, holds_work)
        try:
            yield workspace
        except BaseException:
            if not holds_work():
                workspace.remove()
            raise
        workspace.remove()


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


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Make it a `CheckpointError` where the system refuses to write more to `folder`."""
    try:
        yield
    except BaseException as error:
        if not is_disk_full(error):
            raise
        free = shutil.disk_usage(folder).free
        raise CheckpointError(f"the disk that holds {folder} is full: {free:,} bytes are free") from error


def is_disk_full(error: BaseException) -> bool:
    """Whether the system refused to write more: the disk, a quota or the limit of a file's size."""
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
