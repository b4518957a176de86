"""Merges: how the neurons that were not selected reach the narrow stream, as an encoder `E (d, k)`.

Under LayerNorm the encoder's columns are centred, since the mean of the stream is not read through the map.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.archs.spec import NormKind
from neuromeld.registry import Registry
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
class Merger:
    """`fit(selection, cost, reg, kind)`.

    needs_cost   it asks for the pairwise distances `(d, d)` between neurons
    spans_mean   its columns add up to the mean direction, so under LayerNorm it takes one more neuron than it keeps
                 directions
    """

    fit: Callable[[Selection, Tensor | None, float, NormKind], Merge]
    needs_cost: bool
    spans_mean: bool


def none(selection: Selection, cost: Tensor | None, reg: float, kind: NormKind) -> Merge:
    """Only what was selected: pruning for neurons, projection for principal directions."""
    return Merge(centred(selection.directions, kind))


def transport(selection: Selection, cost: Tensor | None, reg: float, kind: NormKind) -> Merge:
    """Send every neuron to the kept ones by entropic optimal transport (arXiv:2507.04517).

    Each kept neuron becomes a weighted average, with weights that sum to 1, of the neurons sent to it.
    """
    assert cost is not None
    assert selection.neurons is not None
    result = transport_plan(cost[:, selection.neurons], reg=reg)
    encode = result.plan / result.plan.sum(0)
    backward = (result.plan / result.plan.sum(1, keepdim=True)).T
    if kind == "rms":
        return Merge(encode, backward, result)
    # The plan's columns add up to a constant, which centring takes away: one direction is left without a use.
    encode = centred(encode, kind)
    _, _, right = torch.linalg.svd(encode, full_matrices=False)
    used = right[:-1]
    return Merge(encode @ used.T, used @ centred(backward.T, kind).T, result)


MERGES: Registry[Merger] = Registry(
    "merge",
    {
        "none": Merger(none, needs_cost=False, spans_mean=False),
        "transport": Merger(transport, needs_cost=True, spans_mean=True),
    },
)
