"""Merged layers beside what they were, both on the original network's stream: members do not wait for each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.linalg.ridge import is_held_out
from neuromeld.model.capture import Batch, LayerCalls, real_tokens, record_calls
from neuromeld.runtime.distributed import global_index


@dataclass(frozen=True)
class PairedLayers:
    """One merged layer and its original; `calls.hidden` is what enters either, a tensor a batch."""

    index: int
    merged: nn.Module
    original: nn.Module
    calls: LayerCalls
    mask: str | None

    def reads(self, path: str) -> Iterator[tuple[bool, Tensor, Tensor]]:
        """Of each batch, whether it is held out, and what the module at `path` in the layer reads, `(n, width)`.

        As merged, then in the original.
        """
        for b, batch in enumerate(self.calls.batches):
            merged, original = (
                real_tokens(
                    self.calls.run_until(layer, self.index, b, self.calls.hidden[b], layer.get_submodule(path)),
                    batch,
                    self.mask,
                )
                for layer in (self.merged, self.original)
            )
            yield is_held_out(*global_index(self.calls.batches, b)), merged, original


def paired_layers(
    model: nn.Module, arch: Architecture, originals: Mapping[int, nn.Module], batches: Sequence[Batch]
) -> Iterator[PairedLayers]:
    """The layers of `model` that were merged, in order.

    originals   copies of them from before, adjacent and in order
    batches     at least two, since some are held out

    Memory: the residual stream of all batches.
    """
    first = min(originals)
    stack = arch.stack_offsets.index(max(start for start in arch.stack_offsets if start <= first))
    calls = record_calls(model, arch, batches, stack)
    for index in range(arch.stack_offsets[stack], max(originals) + 1):
        merged = model.get_submodule(arch.layer_path(index))
        original = originals.get(index, merged)
        if index in originals:
            yield PairedLayers(index, merged, original, calls, arch.stack(first).mask)
        for b, x in enumerate(calls.hidden):
            calls.hidden[b] = calls.run(original, index, b, x)
