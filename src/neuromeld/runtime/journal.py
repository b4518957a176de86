"""A long step is done once: what it found is kept, and the same job, run again, takes it from there.

The result is bit for bit that of an undisturbed job: tensors are kept as they are, and come back in memory of their own
(products may round differently where a tensor starts at another alignment).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neuromeld.runtime.paging import drop_pages, to_file
from neuromeld.runtime.progress import warn
from neuromeld.runtime.streaming import off_device
from neuromeld.runtime.workspace import (
    COMPRESSED,
    Workspace,
    naming_full_disk,
    open_workspace,
    work_folder,
    write_whole,
)

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Entry:
    """The result of a step: plain values, and tensors by name."""

    facts: Any
    tensors: dict[str, Tensor]


class Journal:
    """The finished steps of one job, a file each; without a workspace nothing is kept.

    part   of the job that these steps belong to; the steps of two parts may have the same names
    """

    def __init__(self, workspace: Workspace | None = None, part: str = "") -> None:
        self.workspace = workspace
        self.part = part
        self.num_recalled = 0
        self.memory_mapped = False
        """Whether tensors of this job are to lie in files (`paging.py`)."""

    @property
    def folder(self) -> Path | None:
        """Where the steps are kept, for what a stage wants to keep in a form of its own."""
        return None if self.workspace is None else self.workspace.folder

    @property
    def scratch(self) -> Path | None:
        """Where a memory-mapped job puts what lies in no file; None in others."""
        return self.folder if self.memory_mapped else None

    def begin(self, identity: Mapping[str, Any], *, force: bool) -> None:
        """Begin a part of the job as `Workspace.begin` does; called before the first step of each part of a job."""
        if self.workspace is not None:
            self.workspace.begin(identity, force=force)

    def within(self, part: str) -> "Journal":
        """Return the journal of a part of this job, or of a part of this part."""
        found = Journal(self.workspace, f"{self.part}: {part}" if self.part else part)
        found.memory_mapped = self.memory_mapped
        return found

    def forget(self) -> None:
        """Remove the steps of this part."""
        assert self.part, "all of a job is removed with its workspace"
        for path in self.folder.glob(f"{_quoted(self.part)}*") if self.folder else ():
            path.unlink()

    def recall(self, step: str) -> Entry | None:
        """Return what the step found when it was done, None where it was not."""
        entry = self.read(step)
        self.num_recalled += entry is not None
        return entry

    def read(self, step: str) -> Entry | None:
        """Return what the step found, also in the job that did it; the tensors of a memory-mapped job stay in their
        file.

        What was damaged meanwhile counts as not done, with a warning.
        """
        if self.folder is None:
            return None
        path = self._path(self.folder, step)
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                stated = file.metadata() or {}
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError):
            found, stated = {}, {}
        facts = stated.get("facts", "")
        if stated.get("sha256") != _digest(facts, found):
            warn(f"{path} is damaged: the step is done again")
            return None
        if self.memory_mapped:
            drop_pages(found.values())
        return Entry(json.loads(facts), found if self.memory_mapped else {name: t.clone() for name, t in found.items()})

    def keep(self, step: str, facts: Any, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Keep what a step found: values that JSON can hold, and tensors."""
        if self.folder is None:
            return
        found = {name: tensor.detach().cpu().contiguous() for name, tensor in (tensors or {}).items()}
        stated = json.dumps(facts)
        metadata = {"facts": stated, "sha256": _digest(stated, found)}
        write_whole(self._path(self.folder, step), lambda path: save_file(found, path, metadata=metadata))

    def offload(self, tensor: Tensor) -> Tensor:
        """Return the tensor, in memory where weights come to a device by layers.

        In a memory-mapped job a copy in a file of the journal's folder, that goes with it.
        """
        tensor = off_device(tensor)
        if not self.memory_mapped:
            return tensor
        assert self.folder is not None
        with naming_full_disk(self.folder):
            return to_file(tensor, self.folder)

    def once(self, step: str, compute: Callable[..., Any], *arguments: Any) -> Any:
        """Return `compute(*arguments)`, which JSON must be able to hold, or what it was."""
        entry = self.recall(step)
        if entry is not None:
            return entry.facts
        result = compute(*arguments)
        self.keep(step, result)
        return result

    def _path(self, folder: Path, step: str) -> Path:
        return folder / f"{_quoted(self.part) if self.part else ''}{quote(step, safe=' ,')}{SUFFIX}"


def _quoted(part: str) -> str:
    """Return how the names of files of a part begin; nothing in it is a pattern."""
    return quote(f"{part}: ", safe=" ,")


def _digest(facts: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256, in hex, of all that a step found."""
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


NO_JOURNAL = Journal()
"""Keeps nothing."""


@contextmanager
def open_journal(out: Path) -> Iterator[Journal]:
    """Return the journal of the job that will write `out`; `open_workspace` says when it is removed and when
    refused.
    """
    folder = work_folder(out)
    with open_workspace(folder, lambda: any(folder.glob(f"*{SUFFIX}")) or (folder / COMPRESSED).exists()) as workspace:
        yield Journal(workspace)
