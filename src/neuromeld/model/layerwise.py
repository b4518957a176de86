"""Go through a model layer by layer: what enters a layer, change it once, carry the stream past it.

A change that the journal remembers is loaded, not computed again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from pydantic import TypeAdapter
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.model.capture import Batch, LayerCalls, real_tokens, record_calls
from neuromeld.model.kept import KeptAttention
from neuromeld.model.surgery import changed_parameters, load_parameters, move_parameters
from neuromeld.runtime.journal import Journal
from neuromeld.runtime.memory import release_memory
from neuromeld.runtime.paging import drop_pages

T = TypeVar("T")


@dataclass(frozen=True)
class LayerInputs:
    """One layer of a model and the stream that enters it, `calls.hidden`, a tensor `(batch, time, d)` a batch.

    attention   runs once on each batch, as long as it stays as it is
    """

    arch: Architecture
    index: int
    layer: nn.Module
    calls: LayerCalls
    attention: KeptAttention

    @property
    def batches(self) -> Sequence[Batch]:
        """The calibration batches, or this rank's share of them."""
        return self.calls.batches

    def called(self, batch: int, module: nn.Module, layer: nn.Module | None = None) -> tuple[Tensor, ...]:
        """Return what `module`, in this layer or in `layer`, is called with on a batch: real tokens only, `(n, width)`.

        layer   another layer, such as a copy of this one, that the same stream enters
        """
        layer = layer or self.layer
        with self.attention.on(batch, layer, until=module):
            found = self.calls.call_of(layer, self.index, batch, self.calls.hidden[batch], module)
        mask = self.arch.stack(self.index).mask
        return tuple(real_tokens(x, self.batches[batch], mask) for x in found)

    def with_stream(self, calls: LayerCalls, offload: Callable[[Tensor], Tensor]) -> "LayerInputs":
        """Return the same layer with another stream, and what attention adds to it where `offload` puts it."""
        return replace(self, calls=calls, attention=KeptAttention(self.arch.attention_path(self.index), offload))

    def carry(self, layer: nn.Module, offload: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        """Let the stream be what leaves `layer`, this one or another that it enters in its place."""
        for b, x in enumerate(self.calls.hidden):
            with self.attention.on(b, layer):
                self.calls.hidden[b] = offload(self.calls.run(layer, self.index, b, x))
            self.attention.drop(b)


def walk_layers(
    model: nn.Module,
    arch: Architecture,
    batches: Sequence[Batch],
    *,
    layers: range | None = None,
    originals: Mapping[int, nn.Module] | None = None,
    offload: Callable[[Tensor], Tensor] = lambda x: x,
) -> Iterator[LayerInputs]:
    """Yield the layers of `model` in order, each with what enters it.

    layers      up to which layer of one stack, from its first; all layers of all stacks by default
    originals   by layer, the module that the stream is carried through in the place of the one in the model
    offload     where the stream of a batch is to lie

    The stream is carried past a layer when the next is asked for, so through the layer as it is by then.
    Memory: the residual stream of all batches, and what attention adds to it in one layer.
    """
    for index in layers if layers is not None else range(arch.num_layers):
        if index in arch.stack_offsets:
            calls = record_calls(model, arch, batches, arch.stack_offsets.index(index), offload)
        layer = model.get_submodule(arch.layer_path(index))
        inputs = LayerInputs(arch, index, layer, calls, KeptAttention(arch.attention_path(index), offload))
        yield inputs
        inputs.carry((originals or {}).get(index, layer), offload)
        release_memory()


def change_once(journal: Journal, step: str, layer: nn.Module, change: Callable[[], T], kind: TypeAdapter[T]) -> T:
    """Let `change` replace parameters of `layer`, and return what is to be remembered of it.

    kind   the type of that: plain values, and dataclasses of them

    In a memory-mapped job the new parameters lie in the journal's file.
    """
    before = dict(layer.named_parameters())
    entry = journal.recall(step)
    if entry is None:
        result = change()
        journal.keep(step, kind.dump_python(result), changed_parameters(layer, before))
        if not journal.memory_mapped:
            return result
        entry = journal.read(step)
        assert entry is not None
    load_parameters(layer, entry.tensors)
    if journal.memory_mapped:
        drop_pages([*before.values(), *layer.parameters()])
    return kind.validate_python(entry.facts)


@contextmanager
def moved_to_files(journal: Journal, module: nn.Module) -> Iterator[None]:
    """Put, in a memory-mapped job, the parameters of `module` that are replaced inside into files; drop all pages."""
    before = dict(module.named_parameters())
    yield
    if journal.memory_mapped:
        move_parameters(module, changed_parameters(module, before), journal.offload)
        drop_pages(before.values())
