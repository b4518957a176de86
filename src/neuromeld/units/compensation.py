"""Compensation: what becomes of the consumer, the matrix that reads the units that are left."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from neuromeld.linalg.ridge import FFN_LAMBDAS, RidgeFit, refit
from neuromeld.registry import Method, Need, methods
from neuromeld.stats import Features


@dataclass(frozen=True)
class Consumer:
    """The units that are left against what the whole sublayer wrote, and the consumer's matrix for them.

    fitted, held_out  their moments, to fit on and to choose by
    initial           the matrix without compensation, `(m, d)`
    has_bias          whether the consumer has a bias
    """

    fitted: Features
    held_out: Features
    initial: Float[Tensor, "m d"]
    has_bias: bool

    def regress(self, lambdas: Sequence[float], *, intercept: bool) -> "Compensated":
        """Refit the matrix with each of `lambdas`, none for not at all; with an intercept, the bias too."""
        through = self.fitted if intercept else None
        fit = refit(self.fitted.regression(through), self.held_out.regression(through), self.initial, lambdas)
        shift = self.fitted.target_mean - self.fitted.mean @ fit.matrix if intercept else None
        return Compensated(fit, shift)


@dataclass(frozen=True)
class Compensated:
    """The consumer's new matrix, how well it fits, and what is added to its bias `(d,)`, if that changes."""

    fit: RidgeFit
    shift: Float[Tensor, "d"] | None


Compensation = Method[Callable[[Consumer], Compensated]]


def ridge(consumer: Consumer) -> Compensated:
    """Refit matrix and bias by ridge regression on what the whole sublayer wrote."""
    return consumer.regress(FFN_LAMBDAS, intercept=consumer.has_bias)


def bias(consumer: Consumer) -> Compensated:
    """Add the mean of what is lost to the bias, and leave the matrix."""
    return consumer.regress((), intercept=True)


def none(consumer: Consumer) -> Compensated:
    """Leave matrix and bias as they are."""
    return consumer.regress((), intercept=False)


COMPENSATIONS = methods(
    "compensation",
    Method(ridge, source="arXiv:2403.12983"),
    Method(bias, frozenset({Need.BIAS}), source="arXiv:2312.11983"),
    Method(none),
)
