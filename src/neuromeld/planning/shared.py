"""Keep what one budget found out that others of the same model need not find out again."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from neuromeld.planning.budget import Budget
from neuromeld.planning.candidates import Candidate
from neuromeld.planning.latency import TimeTable
from neuromeld.planning.sensitivity import FisherScores, UnitLosses

EXPONENT = 1.5
"""The loss grows about so with what is taken away, for want of a prediction or a second measurement."""

LEAST_GONE = 0.01
"""Of all that a budget leaves, so that losses of two budgets can be set in proportion."""


@dataclass(frozen=True)
class Known:
    """A kind of candidate as it was measured last: the share that was taken away, and the loss, also as predicted."""

    gone: float
    predicted: float | None
    loss: float

    def expected(self, candidate: Candidate, gone: float) -> float:
        """Return the loss to expect of a candidate of this kind: it grows as what is predicted does."""
        if candidate.predicted and self.predicted:
            return self.loss * candidate.predicted / self.predicted
        return self.loss * math.pow(gone / self.gone, EXPONENT)


def _gone(budget: Budget) -> float:
    return max(1 - (budget.keep or 0.0), LEAST_GONE)


@dataclass
class Shared:
    """Sensitivities, losses of units and times of sizes as measured, losses of the original by text, and kinds of
    candidates by name.

    known   those that came to a last round
    """

    scores: FisherScores | None = None
    losses: UnitLosses | None = None
    times: TimeTable | None = None
    dense: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    known: dict[str, Known] = field(default_factory=dict)

    def learn(self, budget: Budget, losses: Iterable[tuple[Candidate, float]]) -> None:
        """Remember what candidates of a share lost that were built from all tokens."""
        gone = _gone(budget)
        self.known |= {one.name: Known(gone, one.predicted, loss) for one, loss in losses}

    def led(self, everything: Sequence[Candidate], budget: Budget) -> list[Candidate]:
        """Return the candidates of known kinds, that of the least expected loss first; none where no budget was met."""
        found = [one for one in everything if one.name in self.known]
        return sorted(found, key=lambda one: self.known[one.name].expected(one, _gone(budget)))
