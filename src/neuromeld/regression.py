"""Refit of a matrix on calibration tokens, by ridge regression towards the matrix that a method came up with.

`M = argmin |y - x M|^2 + lambda |M - initial|^2`.  It does not shrink towards zero: that silences the directions of
small variance, which a gain behind them may make large.  Part of the calibration batches is held out: it chooses
lambda, and the refit is kept only where it lowers the error there.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.errors import NumericsError
from neuromeld.stats import Cross

HELD_OUT = 8
"""Every eighth calibration batch chooses the ridge and decides whether a refit is kept."""

LAMBDAS = (1e-5, 1e-4, 1e-3)
"""Tried in turn, each times the mean diagonal of the Gram matrix."""


@dataclass(frozen=True)
class Refit:
    """`matrix (k, d)`; the errors are mean squares on held-out tokens over the target's own."""

    matrix: Float[Tensor, "k d"]
    error_before: float
    error_after: float
    ridge: float | None

    @property
    def kept(self) -> bool:
        """False where the initial matrix was better on the held-out tokens."""
        return self.ridge is not None


def is_held_out(index: int, num_batches: int) -> bool:
    """Whether batch `index` of `num_batches` is held out; with fewer than `HELD_OUT` batches, the last one is."""
    every = min(HELD_OUT, num_batches)
    return index % every == every - 1


def refit(fitted: Cross, held_out: Cross, initial: Float[Tensor, "k d"]) -> Refit:
    """Regress on `fitted`, choose on `held_out`, start from `initial`."""
    k = fitted.gram.shape[0]
    before = relative_error(held_out, initial)
    best = Refit(initial, before, before, None)
    eye = torch.eye(k, dtype=fitted.gram.dtype, device=fitted.gram.device)
    for ridge in LAMBDAS:
        factor, info = torch.linalg.cholesky_ex(fitted.gram + ridge * fitted.gram.diagonal().mean() * eye)
        if info != 0:
            continue
        matrix = initial + torch.cholesky_solve(fitted.cross - fitted.gram @ initial, factor)
        error = relative_error(held_out, matrix)
        if error < best.error_after:
            best = Refit(matrix, before, error, ridge)
    if not torch.isfinite(best.matrix).all():
        raise NumericsError("the refit is not finite; calibrate on more tokens")
    return best


def relative_error(moments: Cross, matrix: Float[Tensor, "k d"]) -> float:
    """`E|y - x M|^2 / E|y|^2` from sums alone."""
    explained = 2 * (matrix * moments.cross).sum() - (matrix * (moments.gram @ matrix)).sum()
    return float(1 - explained / moments.target_energy)
