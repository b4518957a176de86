"""Measure models, one or several side by side."""

import gc
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from neuromeld.checkpoint.source import ModelSource, locate
from neuromeld.errors import UserInputError
from neuromeld.evaluation import (
    Retained,
    Speed,
    TaskScores,
    bytes_on_disk,
    closeness,
    evaluate_tasks,
    flops_per_token,
    measure_speed,
    retained_performance,
    unique_parameters,
)
from neuromeld.modalities import MODALITIES, inputs_of
from neuromeld.modalities.modality import EvaluationData, Measure, Measured, Modality
from neuromeld.modalities.request import EvaluationRequest
from neuromeld.model.passes import chosen_passes, passes_in

ANY_MODEL = frozenset({"passes", "against"})
"""Options of an evaluation that are for all kinds of models."""

Results = dict[str, dict[str, Any]]
"""What is measured, by model."""


def evaluate(
    models: Sequence[str | Path],
    request: EvaluationRequest | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    allow_pickle: bool = False,
    progress: bool = False,
) -> Results:
    """Measure models on evaluation data: size, cost, what they score, and on request speed and accuracy on tasks.

    models  folders, hub ids, `.gguf` files or `package:NAME`; the first is what the others are compared to
    dtype   to load and measure in; None keeps each checkpoint's own

    Of several texts the first is in the result itself, and `texts` has what each of them gave.  With `against` in the
    request, what models say is compared with what that one says, in the place of labels: no loss is measured.

    Raises a `NeuromeldError` for models that read different kinds of input, for a field of `request` that means nothing
    for these models, and for whatever is wrong with a model or the data.
    """
    request = request or EvaluationRequest()
    sources = {str(name): locate(name, allow_pickle=allow_pickle) for name in models}
    modality, first = _common_modality(list(sources.values())), str(models[0])
    _check_options(request, modality, first)
    results: Results = {}
    scores: dict[str, TaskScores] = {}
    loaded: dict[str, PreTrainedModel] = {}
    original = None
    if request.against is not None:
        known = locate(request.against, allow_pickle=allow_pickle)
        _common_modality([*sources.values(), known])
        original = _Original(known, modality, dtype, device)
    for name, source in sources.items():
        measures = [
            original.measure(data) if original else modality.evaluation(source, data, progress=progress)
            for data in request.data(modality)
        ]
        model = source.load(dtype, device)
        answers = _answers(model, source, request)
        passes = chosen_passes(request.passes, model)
        with passes_in(passes, model):
            measured, *others = (measure(model) for measure in measures)
        cost = flops_per_token(model, context=measured.context)
        results[name] = {"parameters": unique_parameters(model), "passes": passes}
        results[name] |= {"bytes_on_disk": bytes_on_disk(source.folder), "flops_per_token": cost}
        results[name] |= {**measured.scores, **measured.facts}
        results[name] |= {"texts": [_of_text(found) for found in (measured, *others)]} if others else {}
        if answers := {**measured.answers, **answers}:
            scores[name] = answers
        if request.speed:
            loaded[name] = model
        del model
        gc.collect()
    for name, rate in measure_speed(loaded, **request.speed_sizes, seed=0).items() if request.speed else ():
        results[name] |= _of_speed(rate)
    for name, found in scores.items():
        results[name] |= _retained(scores[first], found, is_first=name == first)
    return results


def _answers(model: PreTrainedModel, source: ModelSource, request: EvaluationRequest) -> TaskScores:
    """Return the answers to the tasks of a request, if it has any."""
    if request.tasks is None:
        return {}
    options: dict[str, Any] = {"include_path": request.include_path, "limit": request.limit}
    return evaluate_tasks(model, source.tokenizer(), request.tasks, **options)


def _of_speed(speed: Speed) -> dict[str, Any]:
    medians = {"prefill_tokens_per_second": speed.prefill.median, "decode_tokens_per_second": speed.decode.median}
    return {**medians, "speed": asdict(speed)}


@dataclass
class _Original:
    """The model that others are compared with; it is read once, and its data is in its own tokens."""

    source: ModelSource
    modality: Modality
    dtype: torch.dtype | None
    device: str

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model itself."""
        return self.source.load(self.dtype, self.device)

    def measure(self, data: EvaluationData) -> Measure:
        """Return what compares models with it on the data."""

        def measure(model: PreTrainedModel) -> Measured:
            found = closeness(model, self.model, self.modality.compared(self.source, data))
            protocol = {
                "against": self.source.name,
                "source": data.source or self.modality.default,
                "split": data.split,
                "rows": found.rows,
            }
            return Measured(found.scores, data.seqlen, {"protocol": protocol})

        return measure


def _of_text(measured: Measured) -> dict[str, Any]:
    """Return what one of several texts gave, with its loss in nats per token."""
    loss = math.log(measured.scores["perplexity"])
    return {"loss": loss, **measured.scores, **{name: measured.facts[name] for name in ("tokens", "protocol")}}


def _common_modality(sources: Sequence[ModelSource]) -> Modality:
    kinds = {inputs_of(source.config()) for source in sources}
    if len(kinds) > 1:
        raise UserInputError(f"models that read {' and '.join(sorted(kinds))} have nothing to be compared by")
    if not kinds:
        raise UserInputError("there is nothing to measure: name at least one model")
    return MODALITIES[kinds.pop()]


def _check_options(request: EvaluationRequest, modality: Modality, name: str) -> None:
    """Raise `UserInputError` for an option that a model of this kind has no use for."""
    for option in request.given:
        if option not in modality.options | ANY_MODEL:
            takers = [kind for kind, other in MODALITIES.items() if option in other.options]
            raise UserInputError(
                f"--{option.replace('_', '-')} is for models that read {', '.join(takers)}; "
                f"{name} reads {modality.name}"
            )


def _retained(reference: TaskScores, scores: TaskScores, *, is_first: bool) -> dict[str, Any]:
    """Return the accuracies of one model and, unless it is the first, what it retains of the first's."""
    tasks: dict[str, dict[str, Any]] = {
        task: {"accuracy": score.accuracy, "protocol": score.protocol} for task, score in scores.items()
    }
    if is_first:
        return {"tasks": tasks}
    for task, entry in tasks.items():
        entry["retained"] = _bounds(retained_performance({task: reference[task]}, {task: scores[task]}))
    return {"tasks": tasks, "retained_performance": _bounds(retained_performance(reference, scores))}


def _bounds(retained: Retained | None) -> dict[str, float] | None:
    return None if retained is None else asdict(retained)
