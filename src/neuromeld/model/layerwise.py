"""Change a layer once: a change that the journal remembers is loaded, not computed again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pydantic import TypeAdapter
from torch import nn

from neuromeld.model.surgery import changed_parameters, load_parameters, move_parameters
from neuromeld.runtime.journal import Journal
from neuromeld.runtime.paging import drop_pages

T = TypeVar("T")


def change_once(journal: Journal, step: str, layer: nn.Module, change: Callable[[], T], kind: TypeAdapter[T]) -> T:
    """Let `change` replace parameters of `layer` and return what is to be remembered of it.

    kind   the type of that: plain values, and dataclasses of them

    In a memory-mapped job the new parameters lie in the journal's file.
    """
    before = dict(layer.named_parameters())
    entry = journal.recall(step)
    if entry is None:
        found = change()
        journal.keep(step, kind.dump_python(found), changed_parameters(layer, before))
        if not journal.memory_mapped:
            return found
        entry = journal.read(step)
        assert entry is not None
    load_parameters(layer, entry.tensors)
    if journal.memory_mapped:
        drop_pages([*before.values(), *layer.parameters()])
    return kind.validate_python(entry.facts)


@contextmanager
def moved_to_files(journal: Journal, module: nn.Module) -> Iterator[None]:
    """In a memory-mapped job, put the parameters of `module` that are replaced inside into files; drop all pages."""
    before = dict(module.named_parameters())
    yield
    if journal.memory_mapped:
        move_parameters(module, changed_parameters(module, before), journal.offload)
        drop_pages(before.values())
