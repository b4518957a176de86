"""A transport plan small enough to keep and to draw."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

BLOCKS = 24
"""Rows and columns of a map, at most."""

STRONGEST = 8


@dataclass(frozen=True)
class PlanSummary:
    """Where the neurons of a space go.

    blocks      mean share of a neuron that goes to a block of kept neurons, rows by blocks of neurons, in their order
    merged      `(neuron, kept neuron, share)` of the neurons that go most into one kept neuron that is not themselves
    """

    blocks: list[list[float]]
    merged: list[tuple[int, int, float]]


def summarise_plan(plan: Float[Tensor, "d k"], kept: Int64[Tensor, " k"]) -> PlanSummary:
    """Return the summary of a plan onto the neurons `kept`; rows are divided by their sum first."""
    shares = plan / plan.sum(1, keepdim=True).clamp(min=torch.finfo(plan.dtype).tiny)
    rows, columns = (_blocks(size).to(plan.device) for size in shares.shape)
    blocks = torch.zeros(int(rows.max()) + 1, int(columns.max()) + 1, dtype=shares.dtype, device=plan.device)
    blocks.index_put_((rows[:, None], columns[None, :]), shares, accumulate=True)
    blocks /= rows.bincount()[:, None]
    strongest = shares.clone()
    strongest[kept] = 0
    share, target = strongest.max(1)
    order = share.argsort(descending=True)[: min(STRONGEST, len(share) - len(kept))]
    merged = [(int(i), int(kept[target[i]]), round(float(share[i]), 4)) for i in order]
    return PlanSummary([[round(float(value), 4) for value in row] for row in blocks], merged)


def _blocks(size: int) -> Int64[Tensor, " size"]:
    """Return the block of each index, the blocks as equal as can be."""
    return torch.arange(size) * min(size, BLOCKS) // size
