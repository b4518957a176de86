"""Change a layer once: a change that the journal remembers is loaded, not computed again."""

from collections.abc import Callable
from typing import TypeVar

from pydantic import TypeAdapter
from torch import nn

from neuromeld.journal import Journal
from neuromeld.surgery import changed_parameters, load_parameters

T = TypeVar("T")


def change_once(journal: Journal, step: str, layer: nn.Module, change: Callable[[], T], kind: TypeAdapter[T]) -> T:
    """Let `change` replace parameters of `layer` and return what is to be remembered of it.

    kind   the type of that: plain values, and dataclasses of them
    """
    entry = journal.recall(step)
    if entry is not None:
        load_parameters(layer, entry.tensors)
        return kind.validate_python(entry.facts)
    before = dict(layer.named_parameters())
    found = change()
    journal.keep(step, kind.dump_python(found), changed_parameters(layer, before))
    return found
