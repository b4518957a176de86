"""Measure one case of a grid: build the smaller model in memory and take its perplexity."""

import time
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedModel

from neuromeld.api import choose
from neuromeld.benchmark.fit import fitted
from neuromeld.benchmark.grid import Case, Protocol, Row
from neuromeld.benchmark.results import Line, Recovered, row_as_asked
from neuromeld.benchmark.slicegpt import simulate_slicegpt, slicegpt_parameters, slicegpt_width
from neuromeld.checkpoint.source import locate
from neuromeld.data.text import TokenWindows, check_vocabulary, token_windows
from neuromeld.evaluation import flops_per_token, perplexity, unique_parameters
from neuromeld.jobs.opening import search_batches
from neuromeld.modalities import batches_of
from neuromeld.planning import Budget, Choice
from neuromeld.planning.pipeline import compress_model
from neuromeld.planning.plan import make_plan, meta_model
from neuromeld.planning.recipe import Recipe, parse_recipe
from neuromeld.recovery import parse_recovery, recover_model
from neuromeld.runtime.journal import NO_JOURNAL, Journal, open_journal
from neuromeld.version import versions


class Bench:
    """One model and its texts, for all cases of one protocol."""

    def __init__(self, protocol: Protocol, *, device: str = "cpu") -> None:
        self.protocol = protocol
        self.device = device
        self.source = locate(protocol.model)

    def measure(self, case: Case, *, progress: bool = False) -> Line:
        """The line of a case; a `NeuromeldError` where the row cannot be had of this model."""
        started = time.monotonic()
        model, facts = self._smaller(case, progress)
        measured = perplexity(model, self._evaluation, progress=progress)
        seconds = time.monotonic() - started
        return Line(
            **self.protocol.model_dump(),
            row=case.name,
            keep=case.keep,
            asked=row_as_asked(case),
            perplexity=measured.perplexity,
            seconds=seconds,
            evaluation_sha256=self._evaluation.sha256,
            dtype=str(model.dtype).removeprefix("torch."),
            device=self.device,
            versions=versions(),
            recovered=self._recovered(model, progress),
            **facts,
        )

    def _recovered(self, model: PreTrainedModel, progress: bool) -> Recovered | None:
        if self.protocol.recovery is None:
            return None
        settings = parse_recovery(self.protocol.recovery)
        told = recover_model(model, settings, self.source.tokenizer(), progress=progress)
        measured = perplexity(model, self._evaluation, progress=progress)
        return Recovered(
            perplexity=measured.perplexity, **{k: v for k, v in told.items() if k in Recovered.model_fields}
        )

    def predicted_parameters(self, case: Case) -> int | None:
        """From the config alone; None for the planner, who has to measure first."""
        if case.row is None:
            return unique_parameters(self._meta_model)
        if case.row.planner is not None:
            return None
        if case.row.slicegpt is not None:
            width, narrow_head = self._slicegpt_width(case), case.row.slicegpt.narrow_head
            return slicegpt_parameters(self._meta_model, width, narrow_head=narrow_head)
        return make_plan(self._meta_model, self._recipe(case)).parameters_after

    def _smaller(self, case: Case, progress: bool) -> tuple[PreTrainedModel, dict[str, Any]]:
        """The model of a case, and what its line says of it."""
        row = case.row
        if row is not None and row.slicegpt is not None:
            width, narrow_head = self._slicegpt_width(case), row.slicegpt.narrow_head
            model = self.source.load(None, self.device)
            parameters = slicegpt_parameters(model, width, narrow_head=narrow_head)
            simulate_slicegpt(model, batches_of(self._calibration), width, narrow_head=narrow_head)
            return model, {"parameters": parameters, "recipe": {"hidden_size": width}}
        if row is not None and row.planner is not None:
            with TemporaryDirectory() as folder, open_journal(Path(folder) / "model") as journal:
                choice = self._choice(row, case.keep, journal, progress)
                model, facts = self._compressed(choice.recipe, journal.within(choice.name), progress)
                return model, facts | {"candidates": choice.record()}
        if row is not None:
            return self._compressed(self._recipe(case), NO_JOURNAL, progress)
        model = self.source.load(None, self.device)
        return model, self._sizes(model)

    def _compressed(self, recipe: Recipe, journal: Journal, progress: bool) -> tuple[PreTrainedModel, dict[str, Any]]:
        model = self.source.load(None, self.device)
        validation = search_batches(recipe, self.source)
        plan, data = make_plan(model, recipe), batches_of(self._calibration)
        cache = {"model": self.source.fingerprint(), "data": self._calibration.sha256, "dtype": str(model.dtype)}
        compress_model(model, plan, data, validation=validation, cache=cache, journal=journal, progress=progress)
        return model, {"recipe": recipe.model_dump(exclude_none=True, mode="json")} | self._sizes(model)

    def _sizes(self, model: PreTrainedModel) -> dict[str, int]:
        flops = flops_per_token(model, context=self.protocol.seqlen)
        return {"parameters": unique_parameters(model), "flops_per_token": flops}

    def _recipe(self, case: Case) -> Recipe:
        """The recipe of a row, its free size set to what the budget allows."""
        assert case.row is not None
        assert case.row.recipe is not None
        stages = case.row.recipe | {"calibration": self.protocol.calibration.model_dump()}
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

    def _choice(self, row: Row, keep: float | None, journal: Journal, progress: bool) -> Choice:
        assert row.planner is not None
        return choose(
            self.protocol.model,
            Budget(keep=keep),
            self.protocol.calibration,
            row.planner,
            device=self.device,
            journal=journal,
            progress=progress,
        )

    @cached_property
    def _meta_model(self) -> PreTrainedModel:
        return meta_model(self.source.config())

    @cached_property
    def _calibration(self) -> TokenWindows:
        return self._windows("calibration", self.protocol.calibration_tokens, seed=self.protocol.seed)

    @cached_property
    def _evaluation(self) -> TokenWindows:
        return self._windows(self.protocol.split, self.protocol.evaluation_tokens)

    def _windows(self, split: Any, tokens: int, **seed: int) -> TokenWindows:
        asked = self.protocol
        windows = token_windows(
            asked.text, self.source.tokenizer(), split=split, num_tokens=tokens, seqlen=asked.seqlen, **seed
        )
        check_vocabulary(windows, self._meta_model.config.get_text_config().vocab_size)
        return windows
