"""Build every promising candidate on a small sample, measure it, and take the best."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from neuromeld.errors import UserInputError
from neuromeld.evaluate import mean_loss
from neuromeld.journal import NO_JOURNAL, Journal
from neuromeld.pipeline import run_stages
from neuromeld.plan import architecture_of, make_plan
from neuromeld.planner.budget import Budget
from neuromeld.planner.candidates import Candidate, Field, candidates
from neuromeld.planner.sensitivity import information
from neuromeld.progress import track
from neuromeld.recipe import Calibration, Recipe, parse_recipe
from neuromeld.streams import Batch
from neuromeld.surgery import reversible

MOST_BUILT = 4
"""Candidates with a prediction that are built, the best first; those without one, and the simplest, are built too."""

FINALISTS = 2
"""Candidates that are built again from the whole sample, next to the simplest."""


@dataclass(frozen=True)
class Measured:
    """A candidate; `excess_loss` is that of the model built from the sample, None where it was no finalist.

    first_loss  the same from half of the sample on a quarter of the validation text, None where it was not built
    """

    name: str
    recipe: Recipe
    kept_ratio: float
    flops_ratio: float
    predicted: float | None
    first_loss: float | None
    excess_loss: float | None
    chosen: bool


@dataclass(frozen=True)
class Choice:
    """The recipe to build, and all that it was weighed against, best first."""

    recipe: Recipe
    candidates: list[Measured]

    def record(self) -> list[dict[str, Any]]:
        """The candidates for `record.json`."""
        return [
            {
                "name": c.name,
                "kept_ratio": c.kept_ratio,
                "flops_ratio": c.flops_ratio,
                "predicted_loss": c.predicted,
                "first_loss": c.first_loss,
                "measured_loss": c.excess_loss,
                "chosen": c.chosen,
            }
            for c in self.candidates
        ]


@torch.no_grad()
def choose_recipe(
    model: PreTrainedModel,
    budget: Budget,
    calibration: Calibration,
    output: Literal["auto", "stock", "native"],
    sample: Sequence[Batch],
    validation: Sequence[Batch],
    *,
    journal: Journal = NO_JOURNAL,
    progress: bool = False,
) -> Choice:
    """The recipe that meets `budget` and loses least; the model is as before when this returns.

    calibration  goes into the recipe
    sample       calibration batches: a quarter for sensitivities, half for all candidates, all of them for finalists
    validation   other text: a quarter to measure all candidates on, all of it for finalists

    Raises `UserInputError` where no candidate meets the budget.
    """
    arch = architecture_of(model)
    model.eval()
    small = sample[: max(2, len(sample) // 2)]
    with track("measuring sensitivities", max(1, len(small) // 2), enabled=progress) as advance:
        found = information(model, arch, small[: max(1, len(small) // 2)], advance)
    settings = {"calibration": calibration.model_dump(), "output": output}
    ways = candidates(Field(model, arch, budget, found, settings))
    if not ways:
        raise UserInputError("no candidate meets this budget: ask for less compression")
    predicted = sorted(way.predicted for way in ways if way.predicted is not None)
    limit = predicted[:MOST_BUILT][-1] if predicted else 0.0
    promising = [way for way in ways if way is ways[0] or way.predicted is None or way.predicted <= limit]

    def measure(what: str, those: Sequence[Candidate], on: Sequence[Batch], text: Sequence[Batch]) -> dict[str, float]:
        dense = journal.once(f"{what} dense", mean_loss, model, text)
        losses = {}
        with track(what, len(those), enabled=progress) as advance:
            for done, way in enumerate(those, start=1):
                losses[way.name] = journal.once(f"{what} {way.name}", _loss, model, way, on, text) - dense
                advance(done)
        return losses

    first = measure("measuring candidates", promising, small, validation[: max(1, len(validation) // 4)])
    # A ridge gains from more tokens and a dropped layer does not, so a small sample alone would favour the latter.
    ranked = sorted(promising, key=lambda way: first[way.name])
    finalists = [way for way in promising if way in ranked[:FINALISTS] or way is ways[0]]
    final = measure("measuring finalists", finalists, sample, validation)
    best = min(finalists, key=lambda way: final[way.name])
    measured = [_measured(model, way, first.get(way.name), final.get(way.name), way is best) for way in ways]
    measured.sort(key=lambda m: (m.excess_loss is None, m.first_loss is None, m.excess_loss or m.first_loss or 0.0))
    return Choice(best.recipe, measured)


def _loss(model: PreTrainedModel, way: Candidate, sample: Sequence[Batch], validation: Sequence[Batch]) -> float:
    plan = make_plan(model, _sampled(way.recipe, sample))
    with reversible(model):
        run_stages(model, architecture_of(model), plan, sample, validation=validation)
        return mean_loss(model, validation)


def _sampled(recipe: Recipe, sample: Sequence[Batch]) -> Recipe:
    """The recipe with the calibration that it is really built on here."""
    tokens = sum(batch["input_ids"].numel() for batch in sample)
    seqlen = sample[0]["input_ids"].shape[1]
    return parse_recipe(recipe.model_dump(exclude_none=True) | {"calibration": {"tokens": tokens, "seqlen": seqlen}})


def _measured(
    model: PreTrainedModel, way: Candidate, first: float | None, final: float | None, chosen: bool
) -> Measured:
    plan = make_plan(model, way.recipe)
    flops = plan.flops_after / plan.flops_before
    return Measured(way.name, way.recipe, plan.kept_ratio, flops, way.predicted, first, final, chosen)
