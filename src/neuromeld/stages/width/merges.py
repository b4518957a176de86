"""Merges: how the neurons that were not selected reach the narrow stream, as an encoder `E (d, k)`.

Under LayerNorm the encoder's columns are centred, since the mean of the stream is not read through the map.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.archs.spec import NormKind
from neuromeld.registry import Method, Need, methods
from neuromeld.stages.width.selectors import Selection
from neuromeld.stages.width.width_map import centred
from neuromeld.transport import TransportResult, transport_plan


@dataclass(frozen=True)
class Merge:
    """The encoder; where it came from a transport, that and the same transport run backwards, `(k, d)`."""

    encode: Float[Tensor, "d k"]
    backward: Float[Tensor, "k d"] | None = None
    transport: TransportResult | None = None


@dataclass(frozen=True)
class Selected:
    """The selection, and what it takes to merge the other neurons into it.

    distances       between all neurons, `(d, d)`; only where a merge needs them
    regularisation  of a transport, in median distances
    """

    selection: Selection
    kind: NormKind
    distances: Float[Tensor, "d d"] | None = None
    regularisation: float = 0.0


def none(selected: Selected) -> Merge:
    """Keep only what was selected: pruning for neurons, projection for principal directions."""
    return Merge(centred(selected.selection.directions, selected.kind))


def transport(selected: Selected) -> Merge:
    """Send every neuron to the kept ones by entropic optimal transport.

    Each kept neuron becomes a weighted average, with weights that sum to 1, of the neurons sent to it.
    """
    neurons, distances = selected.selection.neurons, selected.distances
    assert distances is not None
    assert neurons is not None
    result = transport_plan(distances[:, neurons], reg=selected.regularisation)
    encode = result.plan / result.plan.sum(0)
    backward = (result.plan / result.plan.sum(1, keepdim=True)).T
    if selected.kind == "rms":
        return Merge(encode, backward, result)
    # The plan's columns add up to a constant, which centring takes away: one direction is left without a use.
    encode = centred(encode, selected.kind)
    _, _, right = torch.linalg.svd(encode, full_matrices=False)
    used = right[:-1]
    # Which of a direction's two signs comes out depends on the processor.
    used = used * used.gather(1, used.abs().argmax(1, keepdim=True)).sign()
    return Merge(encode @ used.T, used @ centred(backward.T, selected.kind).T, result)


@dataclass(frozen=True)
class WidthMerge(Method[Callable[[Selected], Merge]]):
    """A merge of the stream's neurons.

    spans_mean   its columns add up to the mean direction, so under LayerNorm it takes one more neuron than it keeps
                 directions
    """

    spans_mean: bool = False


MERGES = methods(
    "merge",
    WidthMerge(none),
    WidthMerge(transport, frozenset({Need.DISTANCES, Need.TRANSPORT}), "arXiv:2507.04517", spans_mean=True),
)
