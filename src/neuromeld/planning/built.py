"""Compare candidates that were built, and take the simplest of the best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from neuromeld.errors import UserInputError
from neuromeld.evaluation import mean_of
from neuromeld.planning.budget import Budget


@dataclass(frozen=True)
class Lost:
    """Hold what is lost to the original, and the standard error of that."""

    amount: float
    error: float


@dataclass(frozen=True)
class BuiltCandidate:
    """Loss of a candidate, in nats per token, and the share of the original's time that it takes, where that was timed.

    by_batch      nats per token of each batch of the validation text
    other_losses  losses on texts of other kinds, by name
    error         standard error of the loss over the original's
    accuracy      share of the original's next-token accuracy that is lost, None where that was not measured
    figures       further ones, by name
    tuned         loss after a short training, and that of each batch; None where candidates are not trained
    """

    loss: float
    by_batch: Sequence[float]
    latency: float | None
    other_losses: Mapping[str, float] = field(default_factory=dict)
    error: float = 0.0
    accuracy: Lost | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    tuned: tuple[float, Sequence[float]] | None = None

    @property
    def ranked(self) -> "BuiltCandidate":
        """Return what is compared: the losses after the short training, where there was one."""
        return self if self.tuned is None else replace(self, loss=self.tuned[0], by_batch=self.tuned[1])


def simplest_of_the_best(outcomes: Mapping[str, BuiltCandidate]) -> str:
    """Return the first whose loss lies within one standard error of the least: candidates come in order of simplicity.

    Source: the one-standard-error rule of Breiman, Friedman, Olshen and Stone, Classification and Regression Trees
    (1984), section 3.4.3, with the error of the difference.
    """
    best = min(outcomes.values(), key=lambda outcome: outcome.loss)
    return next(
        name
        for name, outcome in outcomes.items()
        if outcome is best or outcome.loss - best.loss <= standard_error(outcome, best)
    )


def standard_error(one: BuiltCandidate, other: BuiltCandidate) -> float:
    """Return the standard error of the difference of two losses on the same batches.

    Zero where there is one batch, or one loss is infinite.
    """
    differences = torch.tensor(one.by_batch, dtype=torch.float64) - torch.tensor(other.by_batch, dtype=torch.float64)
    if len(differences) < 2 or not torch.isfinite(differences).all():
        return 0.0
    return float(differences.std()) / math.sqrt(len(differences))


def by_batch(losses: Sequence[tuple[float, int]]) -> list[float]:
    """Return the mean of each batch, of sums and numbers of predictions."""
    return [total / count for total, count in losses]


def accuracy_lost(wrong: Sequence[tuple[float, int]], dense: Sequence[tuple[float, int]]) -> Lost | None:
    """Return the share of the original's next-token accuracy that is lost; None where it gets nothing right.

    wrong, dense   wrong predictions of each batch and their number, of the smaller model and of the original
    """
    one, other = (BuiltCandidate(mean_of(found), by_batch(found), None) for found in (wrong, dense))
    right = 1 - other.loss
    return Lost((one.loss - other.loss) / right, standard_error(one, other) / right) if right else None


def in_time(budget: Budget, final: Mapping[str, BuiltCandidate]) -> list[str]:
    """Return the finalists that meet a budget of time; `UserInputError` where none does."""
    if budget.objective != "latency":
        return list(final)
    assert budget.keep is not None
    meeting = [name for name, outcome in final.items() if (outcome.latency or 0) <= budget.keep]
    if not meeting:
        told = "; ".join(f"{name}: {outcome.latency:.3f}" for name, outcome in final.items())
        raise UserInputError(
            f"nothing that was built takes at most {budget.keep} of the time ({told or 'nothing saved time'}): ask for "
            "less compression, measure on a quieter machine, or use --objective flops"
        )
    return meeting
