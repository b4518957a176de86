"""The job of `frontier`: what each share of the parameters costs, for one model or several, from one run each."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from neuromeld.archs.sizes import changes
from neuromeld.data.calibration import Calibration
from neuromeld.data.text.usage import tokenizer_in
from neuromeld.errors import UserInputError
from neuromeld.evaluation import evaluate_tasks
from neuromeld.evaluation.plain_pass import plain_pass_seconds
from neuromeld.jobs.choosing import ChoiceJob
from neuromeld.modalities.request import EvaluationRequest
from neuromeld.model.passes import chosen_passes, passes_in
from neuromeld.planning import Choice, Planner, Sweep
from neuromeld.planning.effort import STANDARD
from neuromeld.planning.latency import alias_copy, time_ratio
from neuromeld.planning.plan import make_plan
from neuromeld.runtime.journal import Journal

TIME = "time of a request"
"""Over the original's."""


@dataclass(frozen=True)
class FrontierJob:
    """Measure one model at several shares.

    choice   the job for the first share, the largest, without a journal
    keeps    all shares, in descending order
    journal  keeps the losses that were measured; nothing else is written
    asked    the time of a request is measured, too, if speed is, and the accuracy on its tasks
    """

    choice: ChoiceJob
    keeps: Sequence[float]
    journal: Journal
    asked: EvaluationRequest = field(default_factory=EvaluationRequest)

    def run(self) -> dict[str, Any]:
        """Return the points, as plain values, with the knee and what each cost in plain passes."""
        facts = {"keeps": list(self.keeps), "asked": self.asked.model_dump(mode="json", exclude_defaults=True)}
        planner = replace(self.choice, journal=self.journal).planner(accuracy=True, **facts)
        name = self.choice.source.name
        planner = replace(planner, journal=planner.journal.within(name), keeps_builds=False)
        figures = partial(self._figures, alias_copy(planner.model)) if self.asked.speed or self.asked.tasks else None
        planner = replace(planner, figures=figures)
        dense = planner.journal.once("figures dense", figures, planner.model, planner.processor) if figures else {}
        sweep = Sweep(planner)
        with passes_in(chosen_passes(planner.calibration.passes, planner.model), planner.model):
            unit = plain_pass_seconds(planner.model, planner.data)
        points: list[dict[str, Any]] = []
        for place, keep in enumerate(self.keeps):
            try:
                choice = sweep.at(keep)
            except UserInputError:
                if not points:
                    raise
                break  # nothing meets the shares below it either
            spent = sum(choice.phases.processor_seconds.values()) / unit
            cost = planner.journal.once(f"cost {keep:g}", float, spent)
            listed = ",".join(f"{share:g}" for share in self.keeps[: place + 1])
            points.append(_point(planner, choice, keep) | {"passes": cost, "keep_option": listed})
        knee = knee_of([(point["kept_ratio"], point["loss"]) for point in points])
        return {
            "model": name,
            "points": points,
            "original": dense,
            "knee": None if knee is None else points[knee]["keep"],
            "out_of_reach": list(self.keeps[len(points) :]),
            "options": _options(self.choice),
        }

    def _figures(self, original: PreTrainedModel, model: PreTrainedModel, processor: Any) -> dict[str, float]:
        """Return the time of a request over the original's, and the accuracy on each task."""
        asked = self.asked
        found = {TIME: time_ratio(model, original)} if asked.speed else {}
        if asked.tasks:
            folder, limit = asked.include_path, asked.limit
            scores = evaluate_tasks(model, tokenizer_in(processor), asked.tasks, include_path=folder, limit=limit)
            found |= {task: score.accuracy for task, score in scores.items()}
        return found


def _point(planner: Planner, choice: Choice, keep: float) -> dict[str, Any]:
    chosen, plan = choice.chosen, make_plan(planner.model, choice.recipe)
    return {
        "keep": keep,
        "kept_ratio": chosen.kept_ratio,
        "parameters": plan.parameters_after,
        "flops_ratio": chosen.flops_ratio,
        "bytes": plan.bytes_after,
        "loss": chosen.excess_loss,
        "standard_error": chosen.error,
        "accuracy_lost": None if chosen.accuracy is None else asdict(chosen.accuracy),
        "other_losses": dict(chosen.other_losses),
        "figures": dict(chosen.figures),
        "candidate": chosen.name,
        "changes": changes(plan.before, plan.after),
        "format": plan.format,
        "recipe": choice.recipe.model_dump(exclude_none=True, mode="json"),
    }


def _options(job: ChoiceJob) -> str:
    """Return the options of `compress` by which it makes the same choices."""
    given = {name: value for name, value in job.calibration if value != Calibration.model_fields[name].default}
    flags = [f"{_flag(name)} {value}" for name, value in given.items()]
    flags += [f"--effort {job.effort}"] if job.effort != STANDARD.name else []
    return " ".join([*flags, *(["--stock"] if job.output == "stock" else [])])


def _flag(name: str) -> str:
    extra = Calibration.model_fields[name].json_schema_extra
    return str(extra["flag"]) if isinstance(extra, dict) and "flag" in extra else f"--{name}"


def knee_of(points: Sequence[tuple[float, float]]) -> int | None:
    """Return the place of the point that lies farthest below the line between the first and the last one.

    None where none lies below it: every share then costs more than its part.
    """
    (x0, y0), (x1, y1) = points[0], points[-1]
    if len(points) < 3 or x0 == x1:
        return None
    below = [y0 + (y1 - y0) * (x - x0) / (x1 - x0) - y for x, y in points]
    best = max(range(len(points)), key=lambda place: below[place])
    return best if below[best] > 0 else None
