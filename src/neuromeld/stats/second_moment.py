"""The second moment of activations."""

from collections.abc import Mapping

from jaxtyping import Float, Float64
from torch import Tensor

from neuromeld.stats.base import Statistic
from neuromeld.stats.gram import Gram


class SecondMoment(Statistic):
    """`x^T x`, summed over tokens."""

    def __init__(self, width: int) -> None:
        super().__init__((width,), grams=("second_moment",), second_moment=(width, width))

    def _terms(self, x: Float[Tensor, "n d"]) -> Mapping[str, Tensor | Gram]:
        return {"second_moment": Gram(x)}

    def finalize(self) -> Float64[Tensor, "d d"]:
        """Return the mean; `UserInputError` where no tokens were seen, `NumericsError` where it is not finite."""
        return self._means()["second_moment"]
