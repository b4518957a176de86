"""Distances between neurons."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from neuromeld.shapes import ACCUMULATE
from neuromeld.stats.base import Statistic


class PairwiseL1(Statistic):
    """`|x_i - x_j|` of every pair of neurons, summed over tokens: the transport cost of arXiv:2507.04517.

    Keeps the `d (d - 1) / 2` pairs `i < j`: `pdist` does them all in the time `cdist` takes for a tenth of them,
    and the subset can then be chosen after the pass (docs/decisions/0002).
    """

    def __init__(self, width: int) -> None:
        super().__init__((width,), distance=(width * (width - 1) // 2,))
        self._width = width

    def _terms(self, x: Float[Tensor, "n d"]) -> dict[str, Tensor]:
        # A block adds terms of one sign, which float32 does to a relative 1e-6: the cost needs no more.
        dtype = torch.promote_types(x.dtype, torch.float32)
        return {"distance": torch.pdist(x.T.to(dtype).contiguous(), p=1)}

    def finalize(self) -> Float64[Tensor, "d d"]:
        """Return the mean distance of every neuron to every other.

        Raises `UserInputError` if no tokens were seen, `NumericsError` if the sums are not finite.
        """
        distance = self._means()["distance"]
        first, second = torch.triu_indices(self._width, self._width, offset=1, device=distance.device)
        cost = torch.zeros(self._width, self._width, dtype=ACCUMULATE, device=distance.device)
        cost[first, second] = distance
        cost[second, first] = distance
        return cost
