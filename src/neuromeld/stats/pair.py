"""How two sets of features vary together."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from neuromeld.shapes import ACCUMULATE
from neuromeld.stats.base import Statistic

MIN_DEVIATIONS = 1e-7
"""The product of two deviations that a covariance is divided by is at least this (arXiv:2501.06126)."""


@dataclass(frozen=True)
class Covariance:
    """`cross = E[(a - E a)^T (b - E b)]`, features of `a` in rows, and the standard deviations of both."""

    cross: Float64[Tensor, "a b"]
    deviation_a: Float64[Tensor, " a"]
    deviation_b: Float64[Tensor, " b"]
    num_tokens: int

    @property
    def correlation(self) -> Float64[Tensor, "a b"]:
        return self.cross / torch.outer(self.deviation_a, self.deviation_b).clamp_min(MIN_DEVIATIONS)


class PairMoments(Statistic):
    """Sums, squares and cross-products; `update(a, b)` takes features `(n, width)` seen on the same tokens."""

    def __init__(self, width_a: int, width_b: int) -> None:
        super().__init__(
            (width_a, width_b),
            sum_a=(width_a,),
            sum_b=(width_b,),
            square_a=(width_a,),
            square_b=(width_b,),
            cross=(width_a, width_b),
        )

    def _terms(self, a: Float[Tensor, "n a"], b: Float[Tensor, "n b"]) -> dict[str, Tensor]:
        a, b = a.to(ACCUMULATE), b.to(ACCUMULATE)
        return {
            "sum_a": a.sum(0),
            "sum_b": b.sum(0),
            "square_a": a.square().sum(0),
            "square_b": b.square().sum(0),
            "cross": a.T @ b,
        }

    def finalize(self) -> Covariance:
        """Return the means.

        `UserInputError` if no tokens were seen, `NumericsError` naming the sums that are not finite.
        """
        means = self._means()
        mean_a, mean_b = means["sum_a"], means["sum_b"]
        deviation_a = (means["square_a"] - mean_a.square()).clamp_min(0).sqrt()
        deviation_b = (means["square_b"] - mean_b.square()).clamp_min(0).sqrt()
        return Covariance(means["cross"] - torch.outer(mean_a, mean_b), deviation_a, deviation_b, self.num_tokens)
