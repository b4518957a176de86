"""Moments for a linear regression of one stream on another."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float, Float64
from torch import Tensor

from neuromeld.shapes import ACCUMULATE
from neuromeld.stats.base import Statistic
from neuromeld.stats.gram import Gram


@dataclass(frozen=True)
class Cross:
    """Means over tokens; `mean |y - x M|^2 = target_energy - 2 tr(M^T cross) + tr(M^T gram M)` for any `M (k, d)`."""

    gram: Float64[Tensor, "k k"]
    cross: Float64[Tensor, "k d"]
    target_energy: Float64[Tensor, ""]
    num_tokens: int


class CrossMoments(Statistic):
    """`x^T x`, `x^T y` and `|y|^2`, summed over tokens; `update(x, y)` takes inputs `(n, k)` and targets `(n, d)`."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(
            (width_in, width_out),
            grams=("gram",),
            gram=(width_in, width_in),
            cross=(width_in, width_out),
            target_energy=(),
        )

    def _terms(self, x: Float[Tensor, "n k"], y: Float[Tensor, "n d"]) -> Mapping[str, Tensor | Gram]:
        x, y = x.to(ACCUMULATE), y.to(ACCUMULATE)
        return {"gram": Gram(x), "cross": x.T @ y, "target_energy": y.square().sum()}

    def finalize(self) -> Cross:
        """Return the means.

        `UserInputError` if no tokens were seen, `NumericsError` naming the sums that are not finite.
        """
        return Cross(**self._means(), num_tokens=self.num_tokens)
