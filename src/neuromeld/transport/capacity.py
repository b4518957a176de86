"""Keep units up to a capacity, softly: entropic transport of their costs into two bins, kept and removed.

The mass `c_i` of unit `i` goes to the bin of what is kept at a gain of `s_i` and to the other at none, the first bin
holds `capacity`, and the plan has entropy `T`.  Two bins need no iterations of Sinkhorn (arXiv:1306.0895): the share
that is kept is `m_i = sigmoid((s_i - t) / T)`, with `t` such that `sum c_i m_i = capacity`.  As `T` falls to 0 that is
the choice of the largest scores.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.errors import UserInputError
from neuromeld.shapes import ACCUMULATE

BISECTIONS = 80
"""Halvings of where the threshold can lie: more than a float64 tells apart."""

SATURATED = 40.0
"""From so many temperatures off the threshold on, a share is 0 or 1 in float64."""


def kept_shares(
    scores: Float[Tensor, " n"], costs: Float[Tensor, " n"], capacity: float, temperature: float
) -> Float[Tensor, " n"]:
    """Return the share of each unit that is kept, in (0, 1), float64; the shares of the costs sum to `capacity`.

    Differentiable in `scores`: `dt = sum c g ds / sum c g` with `g = m (1 - m)`, by the implicit function.

    costs     positive
    capacity  above 0 and below the sum of the costs

    Raises `UserInputError` for a capacity or a temperature that makes no problem.
    """
    total = float(costs.sum())
    if not 0 < capacity < total or temperature <= 0:
        raise UserInputError(
            f"a capacity of {capacity:g} must lie between 0 and the {total:g} of all units together, and the "
            f"temperature {temperature:g} above 0"
        )
    return cast(
        Tensor, _KeptShares.apply(scores.to(ACCUMULATE), costs.to(scores.device, ACCUMULATE), capacity, temperature)
    )


def threshold_of(scores: Tensor, costs: Tensor, capacity: float, temperature: float) -> Tensor:
    """Return `t` with `sum c sigmoid((s - t) / T) = capacity`, by bisection."""
    low, high = scores.min() - SATURATED * temperature, scores.max() + SATURATED * temperature
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        too_much = (costs * torch.sigmoid((scores - middle) / temperature)).sum() > capacity
        low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
    return (low + high) / 2


class _KeptShares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, costs: Tensor, capacity: float, temperature: float) -> Tensor:
        threshold = threshold_of(scores, costs, capacity, temperature)
        shares = torch.sigmoid((scores - threshold) / temperature)
        ctx.save_for_backward(shares, costs)
        ctx.temperature = temperature
        return shares

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        shares, costs = ctx.saved_tensors
        slopes = shares * (1 - shares)
        through_threshold = (gradients[0] * slopes).sum() / (costs * slopes).sum().clamp_min(
            torch.finfo(ACCUMULATE).tiny
        )
        return slopes * (gradients[0] - through_threshold * costs) / ctx.temperature, None, None, None
