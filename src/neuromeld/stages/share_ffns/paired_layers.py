"""Merged layers beside what they were, both on the original network's stream: members do not wait for each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.model.capture import Batch
from neuromeld.model.layerwise import LayerInputs, walk_layers
from neuromeld.stats.split import held_out_here


@dataclass(frozen=True)
class PairedLayers:
    """One merged layer and its original, with the stream that enters either."""

    inputs: LayerInputs
    original: nn.Module

    @property
    def index(self) -> int:
        """The number of the layer."""
        return self.inputs.index

    @property
    def merged(self) -> nn.Module:
        """The layer as it is in the model."""
        return self.inputs.layer

    def reads(self, path: str) -> Iterator[tuple[bool, Tensor, Tensor]]:
        """Yield for each batch whether it is held out, and what the module at `path` in the layer reads, `(n, width)`.

        As merged, then in the original.
        """
        for b in range(len(self.inputs.batches)):
            merged, original = (
                self.inputs.called(b, layer.get_submodule(path), layer)[0] for layer in (self.merged, self.original)
            )
            yield held_out_here(self.inputs.batches, b), merged, original


def paired_layers(
    model: nn.Module, arch: Architecture, originals: Mapping[int, nn.Module], batches: Sequence[Batch]
) -> Iterator[PairedLayers]:
    """Yield the layers of `model` that were merged, in order.

    originals   copies of them from before, adjacent and in order
    batches     at least two, since some are held out

    Memory: the residual stream of all batches.
    """
    first = max(start for start in arch.stack_offsets if start <= min(originals))
    layers = range(first, max(originals) + 1)
    for inputs in walk_layers(model, arch, batches, layers=layers, originals=originals):
        if inputs.index in originals:
            yield PairedLayers(inputs, originals[inputs.index])
