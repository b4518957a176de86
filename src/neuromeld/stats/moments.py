"""Moments of a residual stream."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float, Float64
from torch import Tensor

from neuromeld.shapes import ACCUMULATE
from neuromeld.stats.base import Statistic
from neuromeld.stats.gram import Gram


@dataclass(frozen=True)
class Moments:
    """Means over tokens of a stream `x (n, d)` and of `N`, the stream as a norm without gain and bias hands it on."""

    second_moment: Float64[Tensor, "d d"]
    normalised_second_moment: Float64[Tensor, "d d"]
    mean_abs: Float64[Tensor, " d"]
    mean: Float64[Tensor, " d"]
    num_tokens: int


class StreamMoments(Statistic):
    """`x^T x`, `N^T N`, `|x|` and `x`, summed over tokens.

    `N = c / sqrt(mean(c^2) + eps)`, with `c = x` for an RMSNorm and, where `centre`, `c = x - mean(x)` for a
    LayerNorm; both means run over the width.  `centre` touches `N` only.  Products are taken in float64
    (docs/decisions/0002).
    """

    def __init__(self, width: int, *, centre: bool, eps: float) -> None:
        super().__init__(
            (width, centre, eps),
            grams=("second_moment", "normalised_second_moment"),
            second_moment=(width, width),
            normalised_second_moment=(width, width),
            mean_abs=(width,),
            mean=(width,),
        )
        self._centre = centre
        self._eps = eps

    def _terms(self, x: Float[Tensor, "n d"]) -> Mapping[str, Tensor | Gram]:
        x = x.to(ACCUMULATE)
        centred = x - x.mean(dim=1, keepdim=True) if self._centre else x
        normalised = centred / (centred.square().mean(dim=1, keepdim=True) + self._eps).sqrt()
        return {
            "second_moment": Gram(x),
            "normalised_second_moment": Gram(normalised),
            "mean_abs": x.abs().sum(dim=0),
            "mean": x.sum(dim=0),
        }

    def finalize(self) -> Moments:
        """Return the means.

        `UserInputError` if no tokens were seen, `NumericsError` naming the sums that are not finite.
        """
        return Moments(**self._means(), num_tokens=self.num_tokens)
