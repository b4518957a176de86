"""Moments of pairs of layers, from one pass over the calibration data."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.model.capture import Batch, capture_outputs
from neuromeld.stats import PairMoments
from neuromeld.stats.base import reduce

Pair = tuple[int, int]
"""Two layers, the lower first."""


def collect_pairs(
    model: nn.Module,
    arch: Architecture,
    paths: Mapping[int, str],
    pairs: Iterable[Pair],
    width: int,
    batches: Iterable[Batch],
) -> dict[Pair, PairMoments]:
    """Return the moments of what the modules of two layers write, for every pair asked for and no other.

    paths   the module of each layer
    width   how many of the last outputs of each count

    Memory does not depend on the number of tokens: the outputs of a layer are dropped once its last partner was met.
    """
    wanted = sorted(set(pairs))
    moments = {pair: PairMoments(width, width) for pair in wanted}
    last_partner = dict(wanted)
    watched = {paths[layer]: layer for layer in sorted({layer for pair in wanted for layer in pair})}
    outputs: dict[int, Tensor] = {}

    def on_activation(path: str, output: Tensor) -> None:
        layer = watched[path]
        outputs[layer] = output[:, -width:].clone()  # the model may add to it in place
        for (first, second), statistic in moments.items():
            if second == layer:
                statistic.update(outputs[first], outputs[layer])
        for held in [held for held in outputs if last_partner.get(held, held) <= layer]:
            del outputs[held]

    capture_outputs(model, arch, list(watched), batches, on_activation)
    reduce(*moments.values())
    return moments
