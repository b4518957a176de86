"""The result of a transport solver."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True)
class TransportResult:
    """A transport plan and how well it was solved.

    plan            `(d, k)`, float64; its columns sum to `b` exactly, its rows to `a` within `marginal_error`
    marginal_error  `sum_i |sum_j plan_ij - a_i|`
    message         for a person: what was reached and, if that is not enough, what to change
    """

    plan: Float64[Tensor, "d k"]
    status: Literal["converged", "max_iterations"]
    iterations: int
    marginal_error: float
    message: str
