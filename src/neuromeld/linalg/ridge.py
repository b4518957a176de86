"""Ridge regression from sums, with part of the data held out to choose by.

`M = argmin |y - x M|^2 + lambda |M - M_0|^2`.  It shrinks towards what is there already (a decoder, a pruned matrix),
or a multiple of it: a ridge towards zero silences the directions of small variance, which a gain behind them may make
large.
The held-out tokens choose lambda, and the fit is kept only where it lowers the error there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.errors import NumericsError
from neuromeld.runtime.memory import all_finite
from neuromeld.stats import Cross

LAMBDAS = (1e-5, 1e-4, 1e-3)
FFN_LAMBDAS = (1e-3, 1e-2, 1e-1, 3e-1, 1.0)
"""Tried in turn, each times the mean diagonal of the Gram matrix: for the residual stream, and for FFNs and heads."""

COMBINATIONS = 128
"""Random combinations of the targets by which a lambda is chosen."""


@dataclass(frozen=True)
class FitReport:
    """How well a regression went; the errors are mean squares on held-out tokens over the target's own.

    `condition` is that of the damped Gram matrix that was solved; it and `ridge` are None where `initial` was kept.
    """

    error_before: float
    error_after: float
    ridge: float | None
    condition: float | None

    @property
    def kept(self) -> bool:
        """False where `initial` was better on the held-out tokens."""
        return self.ridge is not None


@dataclass(frozen=True)
class RidgeFit:
    """The matrix `(k, d)` of a regression, which is large, and what is remembered of it."""

    matrix: Float[Tensor, "k d"]
    fit: FitReport


def refit(
    fitted: Cross,
    held_out: Cross,
    initial: Float[Tensor, "k d"],
    lambdas: Sequence[float] = LAMBDAS,
    towards: Float[Tensor, "k d"] | None = None,
) -> RidgeFit:
    """Regress on `fitted`, choose on `held_out` between that and `initial`; shrink towards it, or `towards`."""
    towards = initial if towards is None else towards
    before = relative_error(held_out, initial)
    best = RidgeFit(initial, FitReport(before, before, None, None))
    if lambdas:
        residual = fitted.cross - fitted.gram @ towards
        ridge = lambdas[0] if len(lambdas) == 1 else _best_lambda(fitted.gram, residual, held_out, towards, lambdas)
        solved = None if ridge is None else _factor(fitted.gram, ridge)
        if solved is not None:
            matrix = towards + torch.cholesky_solve(residual, solved[1])
            error = relative_error(held_out, matrix)
            if error < before:
                best = RidgeFit(matrix, FitReport(before, error, ridge, _condition(*solved)))
    if not all_finite(best.matrix):
        raise NumericsError("the ridge regression is not finite; calibrate on more tokens")
    return best


def _best_lambda(
    gram: Float[Tensor, "k k"],
    residual: Float[Tensor, "k d"],
    held_out: Cross,
    towards: Float[Tensor, "k d"],
    lambdas: Sequence[float],
) -> float | None:
    """Return the one that errs least on held-out tokens, None if no system can be solved.

    Of many targets, random combinations tell: their squared error is that of all, on average.
    """
    sketch = _sketch(residual)
    residual, towards, cross = residual @ sketch, towards @ sketch, held_out.cross @ sketch
    best, least = None, math.inf
    for ridge in lambdas:
        solved = _factor(gram, ridge)
        if solved is None:
            continue
        matrix = towards + torch.cholesky_solve(residual, solved[1])
        error = float((matrix * (held_out.gram @ matrix - 2 * cross)).sum())
        if error < least:
            best, least = ridge, error
    return best


def _sketch(residual: Float[Tensor, "k d"]) -> Float[Tensor, "d s"]:
    """Return random signs, or the identity where there are no more targets than combinations."""
    d = residual.shape[1]
    if d <= COMBINATIONS:
        return torch.eye(d, dtype=residual.dtype, device=residual.device)
    signs = torch.randint(2, (d, COMBINATIONS), generator=torch.Generator().manual_seed(0))
    return (2 * signs - 1).to(residual)


def _factor(gram: Float[Tensor, "k k"], ridge: float) -> tuple[Float[Tensor, "k k"], Float[Tensor, "k k"]] | None:
    """Return the damped Gram matrix and its Cholesky factor; None where it has none."""
    damped = gram.clone()
    damped.diagonal().add_(ridge * gram.diagonal().mean())
    factor, info = torch.linalg.cholesky_ex(damped)
    return None if info != 0 else (damped, factor)


def best_multiple(moments: Cross, matrix: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """Return the multiple of `matrix` with the least squared error; itself where it writes nothing."""
    power = (matrix * (moments.gram @ matrix)).sum()
    return matrix * ((matrix * moments.cross).sum() / power) if power > 0 else matrix


def relative_error(moments: Cross, matrix: Float[Tensor, "k d"]) -> float:
    """Return `E|y - x M|^2 / E|y|^2` from sums alone."""
    explained = 2 * (matrix * moments.cross).sum() - (matrix * (moments.gram @ matrix)).sum()
    return float(1 - explained / moments.target_energy)


def _condition(matrix: Float[Tensor, "k k"], factor: Float[Tensor, "k k"], steps: int = 20) -> float:
    """Return the condition number of a positive definite matrix with this Cholesky factor, by power iteration."""
    largest = smallest = torch.linspace(1, 2, len(matrix), dtype=matrix.dtype, device=matrix.device)[:, None]
    for _ in range(steps):
        largest = matrix @ (largest / largest.norm())
        smallest = torch.cholesky_solve(smallest / smallest.norm(), factor)
    return float(largest.norm() * smallest.norm())
