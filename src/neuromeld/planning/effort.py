"""Say how much the planner tries before it chooses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture
from neuromeld.data.calibration import Calibration
from neuromeld.evaluation.throughput import throughput_of
from neuromeld.model.capture import Batch
from neuromeld.planning.candidates import LEARNED_STREAMS, Candidate, SearchSpace, learned_streams
from neuromeld.planning.duration import Moves, Work, said, time_of
from neuromeld.planning.largest import largest
from neuromeld.planning.plan import make_plan
from neuromeld.planning.recipe import Recipe, parse_recipe
from neuromeld.planning.served import multiples_of
from neuromeld.registry import Registry
from neuromeld.stages.base import Operations
from neuromeld.stages.ffn.stage import FFN_MULTIPLE
from neuromeld.stages.operations import BACKWARD, LEARNING, measuring_levels
from neuromeld.units.selectors import learns

SIMPLEST, UNPREDICTED = 1, 4
"""Candidates that are built whatever is predicted: the simplest; and with it those without a prediction."""


TYPICAL_RATIO = 0.7
"""Share of the hidden neurons that a candidate keeps whose building stands for that of all where a time is told."""


@dataclass(frozen=True)
class Amounts:
    """Tokens of the sensitivities and the first round, of all calibration data, and of the validation text.

    tuned  tokens that finalists are trained on before they are compared
    """

    few: int
    tokens: int
    validation: int
    tuned: int = 0

    @classmethod
    def of(cls, *texts: Sequence[Batch], tuned: int = 0) -> "Amounts":
        """Count the tokens of each of the three."""
        few, tokens, validation = (sum(batch["input_ids"].numel() for batch in text) for text in texts)
        return cls(few, tokens, validation, tuned)


@dataclass(frozen=True)
class Effort:
    """An amount of trying.

    built      candidates with a prediction that are built from few tokens, the best first; those without one, and the
               simplest, are built too
    finalists  candidates that are built again from all calibration tokens; several of them, next to the simplest
    streams    narrower residual streams, which are never predicted, are built, too; else only where much of a model is
               embedding, which gets narrower with them, or nothing is predicted
    learned    of the finalists, the best ones are built once more with units that are chosen by learning; with any,
               narrower streams whose directions are learned are built, too
    measured   losses of some widths of every layer are measured, for candidates that follow them
    """

    name: str
    built: int
    finalists: int
    streams: bool = True
    learned: int = 0
    measured: bool = False

    def promising(self, space: SearchSpace, everything: Sequence[Candidate]) -> list[Candidate]:
        """Return those that are built of all candidates, the simplest of which is the first."""
        predicted = sorted(candidate.predicted for candidate in everything if candidate.predicted is not None)
        if predicted and not self.streams and not space.has_large_embedding:
            everything = [one for one in everything if not one.narrows_stream]
        limit = predicted[: self.built][-1] if predicted else 0.0
        return [one for one in everything if one is everything[0] or one.predicted is None or one.predicted <= limit]

    def operations(self, built: Callable[[int], Operations], amounts: Amounts, layers: int) -> Operations:
        """Return about what is computed, all in all.

        built   what building a typical candidate from so many tokens takes
        layers  of the network
        """
        few, tokens, validation = amounts.few, amounts.tokens, amounts.validation
        sensitivities = Operations(BACKWARD * few / 2)
        first = (built(few) + Operations(validation / 4)) * (self.built + (UNPREDICTED if self.streams else SIMPLEST))
        again = Operations(tokens) if few == tokens else built(tokens)
        tuning = Operations((BACKWARD + 1) * amounts.tuned + (validation if amounts.tuned else 0))
        finalists = (again + Operations(validation) + tuning) * (self.finalists + (self.finalists > 1))
        learned = self.learned and self.learned + 2 * len(LEARNED_STREAMS)
        learning = (built(tokens) + Operations(LEARNING * tokens + validation) + tuning) * learned
        levels = measuring_levels(tokens, validation, layers) * self.measured
        return sensitivities + levels + first + finalists + learning


EFFORTS = Registry(
    "effort",
    {
        effort.name: effort
        for effort in (
            Effort("quick", built=2, finalists=1, streams=False),
            Effort("standard", built=4, finalists=2),
            Effort("best", built=8, finalists=3, learned=2, measured=True),
        )
    },
)

STANDARD = EFFORTS["standard"]


def work_of_choice(
    effort: Effort, model: PreTrainedModel, arch: Architecture, calibration: Calibration, amounts: Amounts
) -> Work:
    """Return what a choice computes, next to nothing being read; `model` may be on the meta device."""

    def work(tokens: int) -> Work:
        amount = calibration.model_copy(update={"tokens": tokens})
        recipe = parse_recipe({"ffn": {"ratio": TYPICAL_RATIO}, "calibration": amount.model_dump()})
        return replace(make_plan(model, recipe, arch=arch).work, looked=0.0, moves=Moves())

    done = effort.operations(lambda tokens: work(tokens).operations, amounts, arch.num_layers)
    return replace(work(amounts.tokens), operations=done)


def told_beforehand(
    effort: Effort, model: PreTrainedModel, arch: Architecture, calibration: Calibration, amounts: Amounts
) -> str:
    """Say how long a choice will take on the device of a live model."""
    work = work_of_choice(effort, model, arch, calibration, amounts)
    seconds = time_of(work, throughput_of(str(model.device))).seconds
    return f"with effort {effort.name}, choosing takes about {said(seconds)} here"


def learned_candidates(space: SearchSpace, ranked: Sequence[Candidate], effort: Effort) -> list[Candidate]:
    """Return what is built by learning: the best finalists once more, and narrower streams.

    ranked  the finalists, the best first
    """
    if not effort.learned:
        return []
    best = [one for one in (_with_learned_units(space, one) for one in ranked) if one is not None]
    streams = [_with_learned_units(space, one) for one in learned_streams(space)]
    return best[: effort.learned] + [one for one in streams if one is not None]


def _with_learned_units(space: SearchSpace, candidate: Candidate) -> Candidate | None:
    """Return the candidate with FFN neurons, and heads, that are chosen by learning; None where it has none to choose.

    Where its FFNs differ by layer, what each keeps is learned, too: all together keep as many neurons.  Where its heads
    do, neurons and heads are learned under one budget of parameters.
    """
    stages = {chosen.stage.name: chosen.options for chosen in candidate.recipe.chosen}
    ffn, heads = stages.get("ffn"), stages.get("heads")
    if ffn is None or learns(ffn.selector) or ffn.size is None:
        return None
    sizes = [ffn.size] if isinstance(ffn.size, int) else [size for size in ffn.size if size]
    if len(sizes) > 1 and FFN_MULTIPLE % multiples_of(space.settings["output"]).by_layer:
        return None  # learned widths are multiples of nothing else
    changed: dict[str, object] = {"size": sum(sizes) // len(sizes), "by_layer": len(sizes) > 1}
    stages["ffn"] = ffn.model_copy(update=changed | {"selector": "learned"})
    if heads is not None:
        kept = heads.num_kv_heads
        found = {} if isinstance(kept, int) else {"num_kv_heads": max(kept), "by_layer": True}
        stages["heads"] = heads.model_copy(update=found | {"selector": "learned"})

    def recipe(size: float) -> Recipe:
        chosen = stages | {"ffn": stages["ffn"].model_copy(update={"size": int(size)})}
        return space.recipe(**{name: options.model_dump(exclude_none=True) for name, options in chosen.items()})

    size = largest(range(1, stages["ffn"].size + 1), lambda size: space.fits(recipe(size)))
    return None if size is None else Candidate(f"{candidate.name}, learned", recipe(size), None)
