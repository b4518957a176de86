"""How much the loss would feel the loss of each part of a model: diagonal Fisher information of masks.

With a mask `m` on a feature `z`, `dL/dm = z dL/dz` at each token, and the loss grows by about half the expected square
of that when the feature is removed (after arXiv:2204.09656).  A whole layer is masked by what it adds to the stream.
The unit is nats per token, so scores of different layers and of different spaces are comparable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.sizes import sizes_of
from neuromeld.archs.spec import Space
from neuromeld.model.capture import Batch
from neuromeld.model.gradients import capture_gradients
from neuromeld.runtime.journal import Journal
from neuromeld.shapes import ACCUMULATE
from neuromeld.units.levels import LevelLosses


@dataclass(frozen=True)
class UnitLosses:
    """In nats per token: by layer, of each hidden neuron `(f,)` and of each attention channel `(heads,)`.

    On the CPU: sizes of many candidates are found by them, number by number.

    A layer without an FFN that is described, or with experts, has no scores of neurons; `heads` are empty where
    attention is not described.
    """

    ffn: list[Tensor]
    heads: list[Tensor]


@dataclass(frozen=True)
class FisherScores(UnitLosses):
    """Score each whole layer, beside each neuron and channel."""

    layers: list[float]


def measured_losses(
    model: nn.Module,
    arch: Architecture,
    data: Sequence[Batch],
    validation: Sequence[Batch],
    journal: Journal,
    advance: Callable[[int], None] = lambda _: None,
) -> UnitLosses | None:
    """Measure some widths of every FFN and numbers of groups of heads, each alone; None where FFNs are of experts.

    data, validation  that what is left is refitted on, and losses are measured on
    """
    with_ffn = arch.layers_with(Space.FFN)
    if arch.consumer(with_ffn[0], Space.FFN).stacked:
        return None
    counts = {Space.FFN: arch.widths[Space.FFN]}
    groups = sizes_of(arch, model.config).num_kv_heads[0]
    if groups > 1 and arch.spec.refusal(Space.HEADS) is None:
        counts[Space.HEADS] = groups
    found = LevelLosses(model, arch, counts).measured(data, validation, journal, advance)
    of = {space: [found[arch.consumer(i, space).path] for i in arch.layers_with(space)] for space in counts}
    ffn = dict(zip(with_ffn, of[Space.FFN], strict=True))
    return UnitLosses([ffn.get(i, torch.zeros(0)) for i in range(arch.num_layers)], of.get(Space.HEADS, []))


def fisher_scores(
    model: nn.Module,
    arch: Architecture,
    batches: Sequence[Batch],
    advance: Callable[[int], None] = lambda _: None,
    *,
    light: bool = False,
) -> FisherScores:
    """Score in one forward and one backward pass over `batches`; all activations of a batch are kept, so take few.

    light   layers are run again for the backward pass, and keep nothing for it but what enters them
    """
    layers = arch.layer_paths
    ffn, heads = (
        {
            layer: consumer.path
            for layer in arch.layers_with(space)
            if not (consumer := arch.consumer(layer, space)).stacked
        }
        for space in (Space.FFN, Space.HEADS)
    )
    sums: dict[str, Tensor] = {}

    def on_activation(path: str, x: Tensor, gradient: Tensor) -> None:
        taylor = (x * gradient).to(ACCUMULATE)
        taylor = taylor.sum(1) if path in layers else taylor
        score = taylor.square().sum(0) / 2
        sums[path] = sums[path] + score if path in sums else score

    total = capture_gradients(
        model,
        [*ffn.values(), *heads.values()],
        batches,
        on_activation,
        adds=layers,
        light=layers if light else (),
        advance=advance,
    )
    sums = {path: score.cpu() for path, score in sums.items()}
    return FisherScores(
        [sums[ffn[layer]] / total if layer in ffn else torch.zeros(0) for layer in range(arch.num_layers)],
        [sums[path] / total for path in heads.values()],
        [float(sums[path] / total) for path in layers],
    )
