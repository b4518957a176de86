"""Keep what one budget found out that others of the same model need not find out again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from neuromeld.planning.budget import Budget
from neuromeld.planning.built import BuiltCandidate
from neuromeld.planning.candidates import Candidate
from neuromeld.planning.latency import TimeTable
from neuromeld.planning.sensitivity import FisherScores, UnitLosses

CLEARLY = 0.8
"""A kind that should lose less than this of what the best lost that was measured is built, too."""

LEAST_GONE = 0.01
"""Of all that a budget leaves, so that losses of two budgets can be set in proportion."""


@dataclass(frozen=True)
class Known:
    """A kind of candidate as it was measured last: the share that was taken away, and the loss, also as predicted."""

    gone: float
    predicted: float | None
    loss: float

    def expected(self, candidate: Candidate, gone: float) -> float:
        """Return the loss to expect of a candidate of this kind: it grows as its prediction does, or what is taken."""
        if candidate.predicted and self.predicted:
            return self.loss * candidate.predicted / self.predicted
        return self.loss * gone / self.gone


def _gone(budget: Budget) -> float:
    return max(1 - (budget.keep or 0.0), LEAST_GONE)


@dataclass
class Shared:
    """Sensitivities, losses of units and times of sizes as measured, losses of the original by text, and kinds of
    candidates by name.

    known   those that were built
    """

    scores: FisherScores | None = None
    losses: UnitLosses | None = None
    times: TimeTable | None = None
    dense: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    known: dict[str, Known] = field(default_factory=dict)

    def learn(
        self,
        budget: Budget,
        candidates: Iterable[Candidate],
        last: Mapping[str, BuiltCandidate],
        first: Mapping[str, BuiltCandidate],
    ) -> None:
        """Remember what candidates of a share lost, by name, in the last round, and in the first from few tokens.

        Those that were not built again count as losing less from all tokens by the same factor as those that were.
        """
        twice = [name for name in last if name in first and first[name].loss > 0]
        factor = sum(last[name].loss for name in twice) / sum(first[name].loss for name in twice) if twice else 1.0
        found = {name: factor * one.loss for name, one in first.items()}
        found |= {name: one.loss for name, one in last.items()}
        self.known |= {
            one.name: Known(_gone(budget), one.predicted, found[one.name]) for one in candidates if one.name in found
        }

    def led(self, everything: Sequence[Candidate], budget: Budget) -> list[Candidate]:
        """Return the candidates of known kinds, that of the least expected loss first; none where no budget was met."""
        found = [one for one in everything if one.name in self.known]
        return sorted(found, key=lambda one: self._expected(one, budget))

    def better(
        self, everything: Sequence[Candidate], budget: Budget, measured: Mapping[str, BuiltCandidate]
    ) -> Iterator[Candidate]:
        """Yield candidates of known kinds that should lose clearly less than any that is measured by then."""
        for one in self.led(everything, budget):
            least = min(built.loss for built in measured.values())
            if one.name not in measured and self._expected(one, budget) < CLEARLY * least:
                yield one

    def _expected(self, candidate: Candidate, budget: Budget) -> float:
        return self.known[candidate.name].expected(candidate, _gone(budget))
