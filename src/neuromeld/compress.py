"""From a checkpoint to a smaller one: plan, compress, save, load again and compare."""

import platform
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PretrainedConfig

from neuromeld.archs import spec_for
from neuromeld.checkpoint import (
    check_free,
    new_folder,
    outputs,
    render_card,
    save_checkpoint,
    save_record,
    verify_checkpoint,
)
from neuromeld.errors import UserInputError
from neuromeld.evaluate import OUTCOME_TOKENS, Outcome, bytes_on_disk
from neuromeld.inputs import reader_for
from neuromeld.pipeline import compress_model
from neuromeld.plan import Plan, make_plan, skeleton
from neuromeld.planner import Budget, Choice, choose_recipe
from neuromeld.progress import timed
from neuromeld.recipe import Calibration, Recipe
from neuromeld.record import compression_record
from neuromeld.report import save_report
from neuromeld.sources import ModelSource, locate
from neuromeld.streams import Batch
from neuromeld.text import first_windows

SEARCH_TOKENS = 4096
"""Validation tokens that windows of layers are chosen on."""

FINAL_TOKENS = 16384
"""Validation tokens that the finalists of a budget are measured on."""

SAMPLE_TOKENS = 16384
"""Calibration tokens that the candidates of a budget are built from."""


@dataclass(frozen=True)
class CompressResult:
    """What `compress` wrote to `out`; `record` is the content of its `record.json`."""

    out: Path
    plan: Plan
    record: dict[str, Any]

    @property
    def kept_ratio(self) -> float:
        """Unique parameters on disk over the original's."""
        return float(self.record["kept_ratio"])


def plan_for(source: str, recipe: Recipe, *, dtype: torch.dtype | None = None, allow_pickle: bool = False) -> Plan:
    """The dry run: what `compress` would make, from the config alone."""
    return _plan(locate(source, allow_pickle=allow_pickle), recipe, dtype)


def choose(
    source: str,
    budget: Budget,
    calibration: Calibration | None = None,
    output: Literal["auto", "stock", "native"] = "auto",
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    allow_pickle: bool = False,
    progress: bool = False,
) -> Choice:
    """The recipe that meets a budget and loses least on validation text, for the model at `source`.

    Candidates are built in memory from a few thousand calibration tokens; nothing is written.
    """
    text = calibration or Calibration()
    located = locate(source, allow_pickle=allow_pickle)
    config = located.config()
    reader = reader_for(config)
    processor = reader.processor(located.folder)
    sample = reader.calibration(text, processor, config, min(SAMPLE_TOKENS, text.tokens))
    validation = reader.validation(text, processor, config, FINAL_TOKENS)
    model = located.load(dtype, device)
    return choose_recipe(model, budget, text, output, sample.batches, validation.batches, progress=progress)


def compress(
    source: str,
    recipe: Recipe,
    out: str | Path,
    *,
    force: bool = False,
    choice: Choice | None = None,
    evaluate: bool = True,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    allow_pickle: bool = False,
    progress: bool = False,
) -> CompressResult:
    """Compress the model at `source` by `recipe` and write it to the folder `out`.

    source   a folder, a hub id, a `.gguf` file, or `package:NAME`
    choice   where `choose` found the recipe: its candidates go into the record
    evaluate look at the model before and after: perplexity on a little evaluation text, and what it writes
    dtype    of the model while it is compressed and on disk; None keeps the checkpoint's own

    The folder appears complete or not at all: it is written beside, loaded again, compared and then renamed.  Raises a
    `NeuromeldError` for everything that can be wrong with the arguments, the model or the disk.
    """
    started = time.monotonic()
    out = Path(out)
    check_free(out, force=force)
    seconds: dict[str, float] = {}
    with timed(seconds, "reading model and data"):
        located = locate(source, allow_pickle=allow_pickle)
        plan = _plan(located, recipe, dtype)
        config, settings = located.config(), recipe.calibration
        reader = reader_for(config)
        processor = reader.processor(located.folder)
        data = reader.calibration(settings, processor, config, settings.tokens)
        validation = search_batches(recipe, located)
        outcome, unmeasured = _outcome(data.source, settings.seqlen, processor, config) if evaluate else (None, [])
        model = located.load(dtype, device)
    cache = {"model": located.fingerprint(), "data": data.sha256, "dtype": str(model.dtype)}
    if outcome is not None:
        with timed(seconds, "looking at both models"):
            outcome.before(model)
    compressed = compress_model(model, plan, data.batches, validation=validation, cache=cache, progress=progress)
    model = compressed.model
    with new_folder(out, force=force) as folder, torch.no_grad():
        record = compression_record(located, plan, data, compressed, model)
        if choice is not None:
            record["candidates"] = choice.record()
            record["warnings"] = [*record.get("warnings", []), *choice.warnings]
        if outcome is not None:
            with timed(seconds, "looking at both models"):
                record |= outcome.after(model)
        if unmeasured:
            record["warnings"] = [*record.get("warnings", []), *unmeasured]
        with timed(seconds, "writing and verifying"):
            expected = outputs(model, data.probe)
            model_dtype = model.dtype
            save_checkpoint(model, processor, folder, recipe_yaml=recipe.to_yaml())
            seconds |= compressed.seconds
            del model, compressed
            record |= {"logit_difference": verify_checkpoint(folder, expected, data.probe, dtype=model_dtype)}
            record |= {"bytes_on_disk": bytes_on_disk(folder)}
        record |= {"seconds": time.monotonic() - started, "seconds_by_phase": seconds}
        record |= {"peak_rss_bytes": peak_rss_bytes()}
        save_record(folder, record, card=render_card(record))
        save_report(folder)
    return CompressResult(out, plan, record)


def search_batches(recipe: Recipe, source: ModelSource) -> Sequence[Batch]:
    """The validation batches that windows of layers are chosen on; none where the recipe chooses none."""
    if not recipe.searches:
        return []
    config = source.config()
    reader = reader_for(config)
    return reader.validation(recipe.calibration, reader.processor(source.folder), config, SEARCH_TOKENS).batches


def _outcome(source: str, seqlen: int, processor: Any, config: PretrainedConfig) -> tuple[Outcome | None, list[str]]:
    """What looks at the model before and after; a warning instead where the source has no evaluation text.

    Models that read something else than text are not looked at.
    """
    if spec_for(config.model_type, config.architectures or []).inputs != "tokens":
        return None, []
    try:
        windows = first_windows(source, processor, split="evaluation", most=OUTCOME_TOKENS, seqlen=seqlen)
    except UserInputError as error:
        return None, [f"what it lost was not measured: {error}"]
    return Outcome(processor, windows), []


def peak_rss_bytes() -> int:
    """The largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _plan(source: ModelSource, recipe: Recipe, dtype: torch.dtype | None) -> Plan:
    config = source.config()
    own = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    return make_plan(skeleton(config), recipe, dtype=dtype or own)
