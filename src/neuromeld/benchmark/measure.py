"""Measure one case of a grid: build the smaller model in memory and take the scores of its kind of input."""

import copy
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel

from neuromeld.benchmark.fit import fitted
from neuromeld.benchmark.grid import Case, Protocol, Row
from neuromeld.benchmark.results import Line, Recovered, row_as_asked
from neuromeld.benchmark.slicegpt import simulate_slicegpt, slicegpt_parameters, slicegpt_width
from neuromeld.checkpoint.source import locate
from neuromeld.data.calibration import Calibration
from neuromeld.evaluation import flops_per_token, unique_parameters
from neuromeld.jobs.choosing import ChoiceJob
from neuromeld.jobs.opening import search_batches
from neuromeld.modalities import MODALITIES, Examples, inputs_of, with_own_text
from neuromeld.modalities.modality import EvaluationData, Measure, Measured
from neuromeld.planning import Budget, Choice
from neuromeld.planning.pipeline import compress_model
from neuromeld.planning.plan import make_plan, meta_model
from neuromeld.planning.recipe import Recipe, parse_recipe
from neuromeld.recovery import parse_recovery, recover_model
from neuromeld.runtime.distributed import own_device
from neuromeld.runtime.journal import NO_JOURNAL, Journal, open_journal
from neuromeld.version import versions


class Bench:
    """One model and its data, for all cases of one protocol."""

    def __init__(self, protocol: Protocol, *, device: str = "cpu", progress: bool = False) -> None:
        self.protocol = protocol
        self.device = device
        self.progress = progress
        self.source = locate(protocol.model)
        listed = MODALITIES[inputs_of(self.source.config())]
        self.modality = with_own_text(listed, self.source, own_device(device), progress=progress)
        self._read: dict[Calibration, Examples] = {}
        self._measures: dict[str, Measure] = {}

    def measure(self, case: Case) -> Line:
        """Return the line of a case.  Raises a `NeuromeldError` where the row cannot be had of this model."""
        started = time.monotonic()
        model, processor, facts = self._smaller(case)
        measured = self._measured(model, processor)
        flops = flops_per_token(model, context=measured.context)
        seconds = time.monotonic() - started
        return Line(
            **self.protocol.model_dump(),
            **_scores(measured),
            by_text={text: self._scores_on(text, model, processor) for text in self.protocol.texts} or None,
            row=case.name,
            keep=case.keep,
            asked=row_as_asked(case),
            seconds=seconds,
            evaluation_sha256=measured.sha256,
            dtype=str(model.dtype).removeprefix("torch."),
            device=self.device,
            versions=versions(),
            recovered=self._recovered(model, processor),
            **{"parameters": unique_parameters(model), "flops_per_token": flops} | facts,
        )

    def _recovered(self, model: PreTrainedModel, processor: Any) -> Recovered | None:
        if self.protocol.recovery is None:
            return None
        settings = parse_recovery(self.protocol.recovery)
        told = recover_model(model, settings, processor, progress=self.progress)
        kept = {name: value for name, value in told.items() if name in Recovered.model_fields}
        return Recovered(**_scores(self._measured(model, processor)), **kept)

    def _measured(self, model: PreTrainedModel, processor: Any) -> Measured:
        """Measure on the data of the grid, in the tokens of the model's own processor."""
        if self.protocol.evaluation_dtype is not None:
            model = copy.deepcopy(model).to(getattr(torch, self.protocol.evaluation_dtype))
        return self._measure_on(self.protocol.data, processor)(model)

    def _scores_on(self, text: str, model: PreTrainedModel, processor: Any) -> dict[str, float]:
        return dict(self._measure_on(text, processor)(model).scores)

    def predicted_parameters(self, case: Case) -> int | None:
        """Predict from the config alone; None for the planner, who has to measure first."""
        if case.row is None:
            return unique_parameters(self._meta_model)
        if case.row.planner is not None:
            return None
        if case.row.slicegpt is not None:
            width, narrow_head = self._slicegpt_width(case), case.row.slicegpt.narrow_head
            return slicegpt_parameters(self._meta_model, width, narrow_head=narrow_head)
        return make_plan(self._meta_model, self._recipe(case)).parameters_after

    def _smaller(self, case: Case) -> tuple[PreTrainedModel, Any, dict[str, Any]]:
        """Return the model of a case, its processor, and what its line says of it."""
        row = case.row
        if row is not None and row.slicegpt is not None:
            width, narrow_head = self._slicegpt_width(case), row.slicegpt.narrow_head
            model = self.source.load(None, self.device)
            parameters = slicegpt_parameters(model, width, narrow_head=narrow_head)
            simulate_slicegpt(model, self._data(case.calibration).batches, width, narrow_head=narrow_head)
            facts = {"parameters": parameters, "flops_per_token": None, "recipe": {"hidden_size": width}}
            return model, self._processor, facts
        if row is not None and row.planner is not None:
            with TemporaryDirectory() as folder, open_journal(Path(folder) / "model") as journal:
                choice = self._choice(case, row, journal)
                model, processor, facts = self._compressed(choice.recipe, choice.steps(journal))
                return model, processor, facts | {"candidates": choice.record()}
        if row is not None:
            return self._compressed(self._recipe(case), NO_JOURNAL)
        return self.source.load(None, self.device), self._processor, {}

    def _compressed(self, recipe: Recipe, journal: Journal) -> tuple[PreTrainedModel, Any, dict[str, Any]]:
        model, told = self.source.load(None, self.device), {}
        if recipe.reads_processor:
            recipe, said = recipe.settled(self._processor, self.source.config())
            told = {"told": said}
        validation = search_batches(recipe, self.source, self.modality)
        plan, data = make_plan(model, recipe), self._data(recipe.calibration)
        cache = {"model": self.source.fingerprint(), "data": data.sha256, "dtype": str(model.dtype)}
        done = compress_model(
            model,
            plan,
            data.batches,
            validation=validation,
            cache=cache,
            journal=journal,
            progress=self.progress,
            processor=self._processor,
        )
        return model, done.processor, {"recipe": recipe.model_dump(exclude_none=True, mode="json")} | told

    def _recipe(self, case: Case) -> Recipe:
        """Return the recipe of a row, its free size set to what the budget allows."""
        assert case.row is not None
        assert case.row.recipe is not None
        stages = case.row.recipe | {"calibration": case.calibration.model_dump()}
        if case.row.fit is None:
            return parse_recipe(stages)
        return fitted(self._meta_model, stages, case.row.fit, Budget(keep=case.keep))

    def _slicegpt_width(self, case: Case) -> int:
        assert case.row is not None
        assert case.row.slicegpt is not None
        form = case.row.slicegpt
        if form.hidden_size is not None:
            return form.hidden_size
        assert case.keep is not None
        budget = round(case.keep * unique_parameters(self._meta_model))
        return slicegpt_width(self._meta_model, budget, narrow_head=form.narrow_head)

    def _choice(self, case: Case, row: Row, journal: Journal) -> Choice:
        assert row.planner is not None
        job = ChoiceJob(self.source, Budget(keep=case.keep), case.calibration, row.planner, journal)
        job = replace(job, device=own_device(self.device), progress=self.progress)
        return replace(job, vocab_from=row.vocab_from, effort=row.effort or job.effort).run()

    @cached_property
    def _meta_model(self) -> PreTrainedModel:
        return meta_model(self.source.config())

    @cached_property
    def _processor(self) -> Any:
        """The processor of the original."""
        return self.modality.processor(self.source.folder)

    def _data(self, settings: Calibration) -> Examples:
        if settings not in self._read:
            config = self.source.config()
            self._read[settings] = self.modality.calibration(settings, self._processor, config, settings.tokens)
        return self._read[settings]

    def _measure_on(self, source: str, processor: Any) -> Measure:
        """Return what measures models with a processor on some data, which is read once for that of the original."""
        own = processor is self._processor
        if own and source in self._measures:
            return self._measures[source]
        asked = self.protocol
        sizes = (source, asked.split, asked.evaluation_tokens, asked.seqlen)
        data = EvaluationData(*sizes, limit=asked.evaluation_examples, processor=None if own else processor)
        measure = self.modality.evaluation(self.source, data, progress=self.progress)
        return self._measures.setdefault(source, measure) if own else measure


def _scores(measured: Measured) -> dict[str, Any]:
    """Return what a line keeps of a measurement."""
    answers = next(iter(measured.answers.values()), None)
    if answers is None:
        return {"scores": dict(measured.scores)}
    correct = "".join(str(int(right)) for right in answers.correct)
    return {"scores": {"accuracy": answers.accuracy, **measured.scores}, "correct": correct}
