"""The choice of a recipe, and all that it was weighed against."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from transformers import PreTrainedModel

from neuromeld.errors import UserInputError
from neuromeld.planning.allowed import AllowedLoss, Unit
from neuromeld.planning.budget import Objective
from neuromeld.planning.built import BuiltCandidate, Lost, standard_error
from neuromeld.planning.candidates import Candidate
from neuromeld.planning.plan import make_plan
from neuromeld.planning.recipe import Recipe
from neuromeld.runtime.journal import Journal
from neuromeld.runtime.phases import Phases


@dataclass(frozen=True)
class Point:
    """One budget that was tried: what is lost on validation text, in nats or of accuracy, and its standard error."""

    keep: float
    loss: float
    error: float

    @property
    def bound(self) -> float:
        """Return the loss and one standard error on top: what counts, so that a lucky draw of text does not decide."""
        return self.loss + self.error


@dataclass(frozen=True)
class Measured:
    """A candidate; `excess_loss` is that of the model built from all the data, None where it was no finalist.

    first_loss     the same from little data on a quarter of the validation text, None where it was not built
    error          standard error of `excess_loss`
    uncertainty    standard error of the difference between `excess_loss` and the least that was measured
    other_losses   excess losses on texts of other kinds, by name, of a finalist
    accuracy       the share of the original's next-token accuracy that is lost, of a finalist where that was asked for
    latency_ratio  time of a request over the original's, None where it was not measured
    figures        further ones by name, of a finalist where they were asked for
    tuned_loss     excess loss after a short training, of a finalist where that was asked for: what is chosen by then
    """

    name: str
    recipe: Recipe
    kept_ratio: float
    flops_ratio: float
    predicted: float | None
    first_loss: float | None
    excess_loss: float | None
    uncertainty: float | None
    latency_ratio: float | None
    error: float | None = None
    other_losses: Mapping[str, float] = field(default_factory=dict)
    accuracy: Lost | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    tuned_loss: float | None = None
    chosen: bool = False

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        candidate: Candidate,
        first: BuiltCandidate | None,
        final: BuiltCandidate | None,
        least: BuiltCandidate,
    ) -> "Measured":
        """Return what became of a candidate in the first round and in the last, next to the one that lost least."""
        plan, last = make_plan(model, candidate.recipe), final or first
        return cls(
            candidate.name,
            candidate.recipe,
            plan.kept_ratio,
            plan.flops_after / plan.flops_before,
            candidate.predicted,
            first_loss=first.loss if first else None,
            excess_loss=final.loss if final else None,
            uncertainty=standard_error(final.ranked, least.ranked) if final else None,
            latency_ratio=last.latency if last else None,
            error=final.error if final else None,
            other_losses=final.other_losses if final else {},
            accuracy=final.accuracy if final else None,
            figures=final.figures if final else {},
            tuned_loss=final.tuned[0] if final and final.tuned else None,
        )

    @property
    def ranked_loss(self) -> float | None:
        """The excess loss of a finalist that it was compared by."""
        return self.excess_loss if self.tuned_loss is None else self.tuned_loss

    def lost(self, unit: Unit) -> Lost:
        """Return what a finalist loses on validation text, in a unit that it was measured in.

        Raises `UserInputError` where the original has no accuracy to lose.
        """
        if unit == "nats":
            return Lost(self.excess_loss or 0.0, self.error or 0.0)
        if self.accuracy is None:
            raise UserInputError(
                "the original predicts no token of the validation text right, so it has no accuracy to lose: give "
                "--max-loss in nats"
            )
        return self.accuracy


@dataclass(frozen=True)
class Choice:
    """Hold the recipe to build, and all that it was weighed against, best first.

    within    part of the journal that this choice is of, where others were made, too
    max_loss  what the model may lose, where the smallest was looked for; `tried` is what was measured for it
    """

    recipe: Recipe
    candidates: list[Measured]
    objective: Objective = "params"
    phases: Phases = field(default_factory=Phases)
    within: str = ""
    max_loss: AllowedLoss | None = None
    tried: Sequence[Point] = ()

    @property
    def chosen(self) -> Measured:
        """Return the candidate that was chosen."""
        return next(c for c in self.candidates if c.chosen)

    def steps(self, journal: Journal) -> Journal:
        """Return the part of a journal that keeps the steps of the candidate that was chosen."""
        return (journal.within(self.within) if self.within else journal).within(self.chosen.name)

    @property
    def warnings(self) -> list[str]:
        """Warnings about how the choice was made."""
        if self.objective != "latency":
            return []
        return ["the recipe was chosen by measured time: another run, or another machine, may choose another"]

    def record_of_loss(self, evaluation: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """Return what `record.json` says of the loss that was allowed: what was found, and what held-out text says.

        evaluation  what was measured of the result on held-out text; of the first, the margin is what is lost there
                    over what was lost on the text that the model was chosen by
        """
        assert self.max_loss is not None
        unit = self.max_loss.unit
        lost = self.chosen.lost(unit)
        found = {"allowed": self.max_loss.amount, "unit": unit}
        found |= {"validation_loss": lost.amount, "standard_error": lost.error}
        for entry in evaluation[:1]:
            if (held_out := _held_out(entry, unit)) is not None:
                found |= {"held_out_loss": held_out, "margin": held_out - lost.amount}
        return found | {"tried": [asdict(point) for point in self.tried]}

    def record(self) -> list[dict[str, Any]]:
        """Return the candidates for `record.json`."""
        return [
            {
                "name": c.name,
                "kept_ratio": c.kept_ratio,
                "flops_ratio": c.flops_ratio,
                "predicted_loss": c.predicted,
                "first_loss": c.first_loss,
                "measured_loss": c.excess_loss,
                "uncertainty": c.uncertainty,
                "latency_ratio": c.latency_ratio,
                **({} if c.tuned_loss is None else {"tuned_loss": c.tuned_loss}),
                "chosen": c.chosen,
            }
            for c in self.candidates
        ]


def _held_out(entry: Mapping[str, Any], unit: Unit) -> float | None:
    """Return what was lost on held-out text; None where before and after were not measured on the same tokens."""
    if "perplexity_before" not in entry:
        return None
    if unit == "nats":
        return math.log(entry["perplexity"] / entry["perplexity_before"])
    return 1 - entry["accuracy"] / entry["accuracy_before"] if entry["accuracy_before"] else None
