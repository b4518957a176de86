"""The best matrix of a rank for what reads it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.shapes import ACCUMULATE

DAMPING = 0.03
"""Of the identity, added to a second moment that was scaled to a mean diagonal of 1."""

ROWS = 16384
"""Rows of a table in float64 at once."""


@dataclass(frozen=True)
class LowRank:
    """`left right ~ table`; `lost` is the weighted square of what is missing over that of the table."""

    left: Float[Tensor, "v r"]
    right: Float[Tensor, "r d"]
    lost: float


def weighted_low_rank(
    table: Float[Tensor, "v d"],
    rows: Float[Tensor, " v"],
    moment: Float[Tensor, "d d"] | None,
    rank: int,
) -> LowRank:
    """Return the matrix `E'` of a rank that minimises `sum_i n_i (e_i - e'_i) H (e_i - e'_i)^T` over the rows of `E`.

    rows    `n`, the weight of each row
    moment  `H`, of the vectors that products with the rows are taken of; None is the identity

    With `S = H^1/2` and `P (d, r)` the leading right singular vectors of `diag(n)^1/2 E S`, `E' = E S P P^T S^-1` by
    Eckart and Young (1936).  In float64, the table in blocks.
    """
    d = table.shape[1]
    root, inverse = _roots(moment, d, table.device)
    gram = torch.zeros(d, d, dtype=ACCUMULATE, device=table.device)
    for block, n in zip(table.split(ROWS), rows.split(ROWS), strict=True):
        scaled = block.to(ACCUMULATE) @ root
        gram += scaled.T @ (scaled * n.to(scaled)[:, None])
    values, vectors = torch.linalg.eigh(gram)
    leading = vectors[:, d - rank :].flip(1)
    left = torch.cat([(block.to(ACCUMULATE) @ (root @ leading)).to(table.dtype) for block in table.split(ROWS)])
    lost = values[: d - rank].clamp(min=0).sum() / values.clamp(min=0).sum()
    return LowRank(left, leading.T @ inverse, float(lost))


def _roots(moment: Tensor | None, d: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the square root of a damped second moment and its inverse."""
    eye = torch.eye(d, dtype=ACCUMULATE, device=device)
    if moment is None:
        return eye, eye
    moment = moment.to(eye)
    values, vectors = torch.linalg.eigh(moment / moment.diagonal().mean() + DAMPING * eye)
    roots = values.clamp(min=DAMPING / 2).sqrt()
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T
