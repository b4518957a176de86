"""Consumer refit: what a consumer should read from the narrow stream, by ridge regression on the original one.

`M = argmin |norm(x) - norm(s) M|^2 + lambda |M - read|^2`, with `x` the original network's stream at the same cut and
`s` the narrow network's, so that earlier errors are corrected too.  It shrinks towards the width map's own decoder: a
ridge towards zero silences the directions of small variance, which the gain behind the norm may make large.  Part of
the calibration tokens is held out: it chooses lambda, and the refit is kept only where it lowers the error there.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.errors import NumericsError
from neuromeld.stats import Cross

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
        """False where the width map's own decoder was better on the held-out tokens."""
        return self.ridge is not None


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
        raise NumericsError("the consumer refit is not finite; calibrate on more tokens")
    return best


def relative_error(moments: Cross, matrix: Float[Tensor, "k d"]) -> float:
    """`E|y - x M|^2 / E|y|^2` from sums alone."""
    explained = 2 * (matrix * moments.cross).sum() - (matrix * (moments.gram @ matrix)).sum()
    return float(1 - explained / moments.target_energy)
