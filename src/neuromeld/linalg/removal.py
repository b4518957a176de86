"""Greedy removal of what a linear map reads, with the map refitted after each: Optimal Brain Surgeon for structures."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

CANDIDATES, AT_ONCE = 256, 128
"""Of many single features, so many of the cheapest are compared exactly until so many of them are gone."""


@dataclass(frozen=True)
class Removal:
    """Units in the order in which they were removed, and by how much each raised the squared error."""

    order: Int64[Tensor, " u"]
    errors: Float[Tensor, " u"]


def greedy_removal(hessian: Float[Tensor, "f f"], weights: Float[Tensor, "f d"], size: int = 1) -> Removal:
    """Remove all units of `size` features in a row, one after the other, each time the one that costs least.

    hessian   `H`, the damped Gram matrix of the features, in float64
    weights   `W_0`, the matrix that reads them

    The cost of a matrix `W` is `tr((W - W_0)^T H (W - W_0))`, and after each unit `W` is the best one without those
    that are gone: `H_KK^-1 H_K: W_0` for the features `K` that stay, the ridge regression shrunk towards `W_0`.
    One run gives the choice at every width.  Of more than `CANDIDATES` single features, the cheapest are compared
    exactly and the others wait until `AT_ONCE` are gone, so that all large products are of matrices.

    Source: Kurtic and others, ZipLM (arXiv:2302.04089); Hassibi and Stork, Optimal Brain Surgeon (1992).
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    left = torch.arange(len(weights) // size, device=weights.device)
    order, errors = [], []
    while len(left):
        gone, raised = _cheapest_features(inverse, weights) if size == 1 else _cheapest_unit(inverse, weights, size)
        order.append(left[gone])
        errors.append(raised)
        stays = torch.ones(len(left), dtype=torch.bool, device=left.device).index_fill(0, gone, False).nonzero()[:, 0]
        inverse, weights = _without(inverse, weights, _features(gone, size), _features(stays, size))
        left = left[stays]
    return Removal(torch.cat(order), torch.cat(errors))


def _features(units: Tensor, size: int) -> Tensor:
    """Return the features of units."""
    return (units[:, None] * size + torch.arange(size, device=units.device)).flatten()


def _without(inverse: Tensor, weights: Tensor, gone: Tensor, stays: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inverse Hessian of the features that stay, and their refitted weights."""
    rows = inverse[gone]
    columns = rows[:, stays]
    follow = torch.linalg.solve(rows[:, gone], columns)
    weights = weights[stays].addmm_(follow.mT, weights[gone], alpha=-1)
    return inverse[stays].index_select(1, stays).addmm_(columns.mT, follow, alpha=-1), weights


def _cheapest_unit(inverse: Tensor, weights: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the unit whose removal costs least, `tr(W_u^T [H^-1]_uu^-1 W_u)`, and what it costs."""
    count = len(weights) // size
    parts = weights.view(count, size, -1)
    blocks = inverse.view(count, size, count, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    least, unit = (parts * torch.linalg.solve(blocks, parts)).sum((1, 2)).min(0)
    return unit[None], least[None]


def _cheapest_features(inverse: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return features in the order in which they go, all where they are few, and what each costs."""
    costs = weights.square().sum(1) / inverse.diagonal()
    candidates = costs.topk(min(CANDIDATES, len(costs)), largest=False).indices
    rows = weights[candidates]
    cover, power = inverse[candidates[:, None], candidates], rows @ rows.mT
    costly = torch.zeros(len(candidates), dtype=weights.dtype, device=weights.device)
    gone, raised = [], []
    for _ in range(len(costs) if len(costs) <= CANDIDATES else AT_ONCE):
        least, j = (power.diagonal() / cover.diagonal() + costly).nan_to_num(torch.inf, torch.inf).min(0)
        gone.append(j)
        raised.append(least)
        costly[j] = torch.inf
        share = cover[:, j] / cover[j, j]
        cover.addr_(share, cover[j].clone(), alpha=-1)
        half = power[:, j] - share * (power[j, j] / 2)
        power.addr_(share, half, alpha=-1).addr_(half, share, alpha=-1)
    return candidates[torch.stack(gone)], torch.stack(raised)
