"""Merges: where each hidden neuron goes, as a matrix `P (f, m)` of non-negative shares.

Producers are multiplied by `P` with columns that sum to 1, so a kept neuron becomes a weighted average of the neurons
sent to it; consumers by `P` with rows that sum to 1, so each neuron's output weights follow it.  Averaging before a
nonlinearity is approximate; duplicates are merged exactly.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from neuromeld.registry import Method, Need, methods
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats import Features
from neuromeld.transport import transport_plan

Merge = Method[Callable[[Features, Int64[Tensor, " m"]], Float[Tensor, "f m"]]]
"""`(features, kept) -> shares`."""

REGULARISATION = 0.05
"""Entropic, in median distances between neurons."""

KMEANS_STEPS = 10


def none(features: Features, kept: Int64[Tensor, " m"]) -> Float[Tensor, "f m"]:
    """Keep the selected neurons and drop the others: pruning."""
    shares = torch.zeros(len(features.gram), len(kept), dtype=ACCUMULATE, device=features.gram.device)
    shares[kept, torch.arange(len(kept), device=shares.device)] = 1
    return shares


def transport(features: Features, kept: Int64[Tensor, " m"]) -> Float[Tensor, "f m"]:
    """Send every neuron to the kept ones by entropic optimal transport between their features."""
    return transport_plan(_distance(features, none(features, kept)), reg=REGULARISATION).plan


def kmeans(features: Features, kept: Int64[Tensor, " m"]) -> Float[Tensor, "f m"]:
    """Send every neuron to the centre nearest to its features, by Lloyd's algorithm from the kept neurons."""
    shares = none(features, kept)
    rows = torch.arange(len(shares), device=shares.device)
    for _ in range(KMEANS_STEPS):
        nearest = _distance(features, shares / shares.sum(0)).argmin(1)
        nearest[kept] = torch.arange(len(kept), device=nearest.device)  # so that no centre is left without neurons
        shares = torch.zeros_like(shares)
        shares[rows, nearest] = 1
    return shares


def _distance(features: Features, encode: Float[Tensor, "f m"]) -> Float[Tensor, "f m"]:
    """Root mean square distance between features and their averages `z encode`."""
    towards = features.gram @ encode
    centres = (encode * towards).sum(0)
    return (features.gram.diagonal()[:, None] + centres - 2 * towards).clamp(min=0).sqrt()


MERGES = methods(
    "merge",
    Method(none),
    Method(transport, frozenset({Need.TRANSPORT}), source="arXiv:2507.04517"),
    Method(kmeans),
)
