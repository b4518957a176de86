"""Hidden features of a sublayer, against what should be written from them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from neuromeld.shapes import ACCUMULATE
from neuromeld.stats.base import Statistic
from neuromeld.stats.cross import Cross
from neuromeld.stats.gram import Gram


@dataclass(frozen=True)
class Features:
    """Means over tokens of features `z (n, f)`, and of targets `y (n, d)`."""

    gram: Float64[Tensor, "f f"]
    cross: Float64[Tensor, "f d"]
    target_energy: Float64[Tensor, ""]
    mean: Float64[Tensor, " f"]
    target_mean: Float64[Tensor, " d"]
    mean_abs: Float64[Tensor, " f"]
    num_tokens: int

    def narrow(self, kept: Int64[Tensor, " m"]) -> "Features":
        """Return the statistics of some of the features, by index."""
        return replace(
            self,
            gram=self.gram[kept][:, kept],
            cross=self.cross[kept],
            mean=self.mean[kept],
            mean_abs=self.mean_abs[kept],
        )

    def regression(self, intercept: "Features | None" = None) -> Cross:
        """Return what a regression of the targets on the features needs.

        intercept   tokens through whose means the regression passes, which gives it an intercept; others than these
                    where it is tested on tokens that it was not fitted on
        """
        if intercept is None:
            return Cross(self.gram, self.cross, self.target_energy, self.num_tokens)
        z, y = intercept.mean, intercept.target_mean
        return Cross(
            self.gram - torch.outer(self.mean, z) - torch.outer(z, self.mean - z),
            self.cross - torch.outer(self.mean, y) - torch.outer(z, self.target_mean - y),
            self.target_energy - 2 * self.target_mean @ y + y.square().sum(),
            self.num_tokens,
        )


class FeatureMoments(Statistic):
    """`z^T z`, `z` and `|z|`, summed over tokens; `update(z)` takes `(n, f)`."""

    def __init__(self, width: int) -> None:
        super().__init__(width, grams=("gram",), gram=(width, width), mean=(width,), mean_abs=(width,))

    def _terms(self, z: Float[Tensor, "n f"]) -> Mapping[str, Tensor | Gram]:
        z = z.to(ACCUMULATE)
        return {"gram": Gram(z), "mean": z.sum(0), "mean_abs": z.abs().sum(0)}

    def finalize(self, matrix: Float64[Tensor, "f d"]) -> Features:
        """Return the means for targets `y = z @ matrix`, of which the Gram matrix says everything.

        Raises `UserInputError` if no tokens were seen, `NumericsError` naming the sums that are not finite.
        """
        means = self._means()
        cross = means["gram"] @ matrix
        targets = {"cross": cross, "target_energy": (matrix * cross).sum(), "target_mean": means["mean"] @ matrix}
        return Features(**means, **targets, num_tokens=self.num_tokens)


class TargetMoments(Statistic):
    """`FeatureMoments`, and `z^T y`, `|y|^2` and `y` of targets; `update(z, y)` takes `(n, f)` and `(n, d)`."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(
            (width_in, width_out),
            grams=("gram",),
            gram=(width_in, width_in),
            cross=(width_in, width_out),
            target_energy=(),
            mean=(width_in,),
            target_mean=(width_out,),
            mean_abs=(width_in,),
        )

    def _terms(self, z: Float[Tensor, "n f"], y: Float[Tensor, "n d"]) -> Mapping[str, Tensor | Gram]:
        z, y = z.to(ACCUMULATE), y.to(ACCUMULATE)
        return {
            "gram": Gram(z),
            "cross": z.T @ y,
            "target_energy": y.square().sum(),
            "mean": z.sum(0),
            "target_mean": y.sum(0),
            "mean_abs": z.abs().sum(0),
        }

    def finalize(self) -> Features:
        """Return the means.

        `UserInputError` if no tokens were seen, `NumericsError` naming the sums that are not finite.
        """
        return Features(**self._means(), num_tokens=self.num_tokens)
