"""Several budgets of one model from one run, and the smallest model that loses no more than it may."""

import math
from dataclasses import dataclass, field, replace

from neuromeld.errors import UserInputError
from neuromeld.planning.allowed import AllowedLoss, Unit
from neuromeld.planning.budget import Budget
from neuromeld.planning.choice import Choice, Point
from neuromeld.planning.choose import Planner
from neuromeld.runtime.phases import Phases

SHARES = [percent / 100 for percent in range(30, 100)]
"""Shares of the parameters among which the smallest model is looked for."""

FIRST = SHARES.index(0.8)

EXPONENT = 1.5
"""The least loss of a share grows about so with what is taken away."""


@dataclass
class Sweep:
    """Choices for several budgets, which share the sensitivities and what kinds of candidates lose.

    planner  of any budget; what the objective is a share of is the same for all
    """

    planner: Planner
    choices: dict[float, Choice] = field(default_factory=dict)

    def at(self, keep: float) -> Choice:
        """Return the choice for one budget.  `UserInputError` where no candidate meets it."""
        if keep not in self.choices:
            part, budget = f"keep {keep:g}", Budget(keep=keep, objective=self.planner.budget.objective)
            journal = self.planner.journal.within(part)
            found = replace(self.planner, budget=budget, journal=journal, phases=Phases()).choose()
            self.choices[keep] = replace(found, within=part)
        return self.choices[keep]

    def point(self, keep: float, unit: Unit) -> Point | None:
        """Return what a budget costs, in nats or in accuracy; None where no candidate meets it."""
        try:
            choice = self.at(keep)
        except UserInputError:
            return None
        lost = choice.chosen.lost(unit)
        return Point(keep, lost.amount, lost.error)

    def smallest(self, max_loss: AllowedLoss) -> Choice:
        """Return the choice for the smallest of `SHARES` whose loss, with its standard error, is at most `max_loss`.

        Losses are taken to grow as the share falls, so few shares are measured.  `UserInputError` where none is so
        good, with the nearest.
        """
        tried: dict[int, Point | None] = {}
        low, high = -1, len(SHARES)
        while high - low > 1:
            place = _guess(low, high, tried, max_loss.amount)
            tried[place] = self.point(SHARES[place], max_loss.unit)
            found = tried[place]
            if found is not None and found.bound <= max_loss.amount:
                high = place
            else:
                low = place
        points = [point for _, point in sorted(tried.items()) if point is not None]
        if high == len(SHARES):
            raise UserInputError(_out_of_reach(max_loss, points))
        choice = self.at(SHARES[high])
        phases = Phases()
        for one in self.choices.values():
            phases.add(one.phases)
        return replace(choice, phases=phases, max_loss=max_loss, tried=points)


def _guess(low: int, high: int, tried: dict[int, Point | None], max_loss: float) -> int:
    """Return a place between two others, near where the loss should be `max_loss` by what was measured.

    Every third is in the middle, so that the search ends soon whatever the losses are.
    """
    above, below = tried.get(low), tried.get(high)
    known = above or below
    if known is None:
        return FIRST if low < FIRST < high else (low + high) // 2
    if len(tried) % 3 == 0 or not 0 < known.bound < math.inf:
        return (low + high) // 2
    exponent = EXPONENT
    if above and below and 0 < below.bound < above.bound < math.inf:
        exponent = math.log(above.bound / below.bound) / math.log((1 - above.keep) / (1 - below.keep))
    gone = (1 - known.keep) * math.pow(max_loss / known.bound, 1 / exponent)
    place = round(100 * (1 - gone)) - round(100 * SHARES[0])
    return min(max(place, low + 1), high - 1)


def _out_of_reach(max_loss: AllowedLoss, points: list[Point]) -> str:
    if not points:
        return f"no candidate could be made that might lose at most {max_loss}"
    nearest = points[-1]
    return (
        f"nothing that was measured loses at most {max_loss} with its standard error: the nearest keeps "
        f"{nearest.keep:g} of the parameters and loses {max_loss.said(nearest.loss)} ± {max_loss.said(nearest.error)}; "
        "allow more"
    )
