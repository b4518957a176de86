"""How much each feature does: its mean square."""

from collections.abc import Mapping

from jaxtyping import Float, Float64
from torch import Tensor

from neuromeld.shapes import ACCUMULATE
from neuromeld.stats.base import Statistic


class Energy(Statistic):
    """`x^2`, summed over tokens; `update(x)` takes `(n, f)`."""

    def __init__(self, width: int) -> None:
        super().__init__(width, square=(width,))

    def _terms(self, x: Float[Tensor, "n f"]) -> Mapping[str, Tensor]:
        return {"square": x.to(ACCUMULATE).square().sum(0)}

    def finalize(self) -> Float64[Tensor, " f"]:
        """Return the means.  `UserInputError` if no tokens were seen, `NumericsError` where a sum is not finite."""
        return self._means()["square"]
