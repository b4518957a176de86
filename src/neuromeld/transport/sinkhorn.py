"""Entropic optimal transport by Sinkhorn iterations, stabilised in the log domain."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from neuromeld.errors import NumericsError, UserInputError
from neuromeld.shapes import ACCUMULATE

MASS_TOLERANCE = 1e-5
"""How far a marginal's sum may be from 1: room for float32 rounding, not for a forgotten division."""


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


def sinkhorn(
    cost: Float[Tensor, "d k"],
    a: Float[Tensor, " d"],
    b: Float[Tensor, " k"],
    *,
    reg: float,
    max_iterations: int = 2000,
    tolerance: float = 1e-6,
    check_every: int = 10,
) -> TransportResult:
    """Solve `min_T <T, C> + reg * sum_ij T_ij (log T_ij - 1)` subject to `T 1 = a`, `T^T 1 = b`, `T >= 0`.

    Alternates row and column scaling [1] of the kernel `exp(-C / reg)` in float64.  `reg` falls to its value in
    tenfold steps from the range of the cost, each solved to `tolerance` from the potentials of the last, which enter
    its kernel in the log domain [2].  So no kernel underflows, and a neuron far from all others does not cost
    iterations in proportion to `distance / reg` (docs/decisions/0001).  Stops when the rows miss `a` by at most
    `tolerance` in L1, looking every `check_every` iterations; differentiable in `cost` through the iterations run.

    cost            `(d, k)`, finite
    a, b            `(d,)` and `(k,)`: positive, each summing to 1
    reg             in the units of `cost`; see `scale_cost` for a scale-free one
    max_iterations  over all steps; each step takes at least one even when they are spent

    Raises `UserInputError` for shapes, marginals or options that make no problem, `NumericsError` for a cost that is
    not finite or masses too many orders apart for float64.  Running out of iterations is a status, not an error.

    [1] Cuturi 2013, arXiv:1306.0895.  [2] Schmitzer 2019, arXiv:1610.06519 sections 3.1 and 3.2.
    """
    _check_problem(cost, a, b, reg=reg, max_iterations=max_iterations, check_every=check_every)
    cost = cost.to(ACCUMULATE)
    # Marginals rounded to float32 differ in mass, and the rows could then never meet a tight tolerance.
    a, b = (marginal / marginal.sum() for marginal in (a.to(cost), b.to(cost)))

    potential = torch.zeros_like(b)
    iterations = 0
    for step_reg in _falling_to(reg, float(cost.detach().max() - cost.detach().min())):
        kernel, log_v = _absorb(-cost / step_reg, a, b, potential / step_reg)
        u, v = torch.ones_like(a), torch.ones_like(b)
        iterations += 1
        while (error := _row_error(kernel, u, v, a)) > tolerance and iterations < max_iterations:
            steps = min(check_every, max_iterations - iterations)
            for _ in range(steps):
                u = a / (kernel @ v)
                v = b / (u @ kernel)
            iterations += steps
        potential = step_reg * (log_v + v.log())
    if math.isnan(error):
        raise NumericsError("the scalings left the range of float64: the masses of a or b are too many orders apart")

    status: Literal["converged", "max_iterations"] = "converged" if error <= tolerance else "max_iterations"
    message = f"{iterations} iterations, rows within {error:.1e} of their marginal (tolerance {tolerance:.1e})"
    if status == "max_iterations":
        message += f": raise max_iterations, raise reg (now {reg:g}; smaller converges slower) or raise tolerance"
    return TransportResult(u[:, None] * kernel * v, status, iterations, error, message)


def _falling_to(reg: float, cost_range: float) -> list[float]:
    num_steps = math.ceil(math.log10(max(cost_range / reg, 1)))
    return [reg * 10.0**step for step in range(num_steps, -1, -1)]


def _absorb(log_kernel: Tensor, a: Tensor, b: Tensor, log_v: Tensor) -> tuple[Tensor, Tensor]:
    """Iterate once in the log domain from column potentials `log_v`: the scaled kernel and its column potentials."""
    log_u = a.log() - torch.logsumexp(log_kernel + log_v, dim=1)
    log_v = b.log() - torch.logsumexp(log_kernel + log_u[:, None], dim=0)
    return (log_kernel + log_u[:, None] + log_v).exp(), log_v


@torch.no_grad()
def _row_error(kernel: Tensor, u: Tensor, v: Tensor, a: Tensor) -> float:
    return float((u * (kernel @ v) - a).abs().sum())


def _check_problem(cost: Tensor, a: Tensor, b: Tensor, *, reg: float, max_iterations: int, check_every: int) -> None:
    problems = []
    if cost.ndim != 2 or 0 in cost.shape:
        problems.append(f"cost has shape {tuple(cost.shape)}: pass a non-empty matrix (d, k)")
    for name, marginal, dim in (("a", a, 0), ("b", b, 1)):
        mass = float(marginal.sum(dtype=ACCUMULATE))
        if marginal.ndim != 1 or (cost.ndim == 2 and len(marginal) != cost.shape[dim]):
            problems.append(f"{name} has shape {tuple(marginal.shape)}: pass one mass for each of cost's dim {dim}")
        elif not bool((marginal > 0).all()):
            problems.append(f"{name} has masses that are not positive: leave those rows or columns out of the cost")
        elif abs(mass - 1) > MASS_TOLERANCE:
            problems.append(f"{name} sums to {mass:.6g}: divide it by its sum")
    if not 0 < reg < math.inf:
        problems.append(f"reg={reg} is not positive and finite: pass one, such as 0.1 for a cost scaled by scale_cost")
    if max_iterations < 1 or check_every < 1:
        problems.append(f"max_iterations={max_iterations}, check_every={check_every}: both must be at least 1")
    if problems:
        raise UserInputError("; ".join(problems))
    if not bool(cost.isfinite().all()):
        raise NumericsError("cost has NaN or infinite entries: look at the activations it was computed from")
