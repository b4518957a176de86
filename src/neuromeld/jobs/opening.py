"""The start of a job: the model that was named, its plan, its data, and the facts that decide the result."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from neuromeld.checkpoint.companions import check_companions
from neuromeld.checkpoint.source import ModelSource
from neuromeld.data.images.captions import holds_captions
from neuromeld.data.mixture import check_not_own, first_named
from neuromeld.data.text import first_windows
from neuromeld.errors import UserInputError
from neuromeld.evaluation import OUTCOME_TOKENS, Outcome
from neuromeld.modalities import Examples, Modality, inputs_of, reader_for
from neuromeld.modalities.tokens import Tokens
from neuromeld.model.capture import Batch
from neuromeld.model.passes import PassFormat
from neuromeld.planning.plan import Plan, make_plan, meta_model
from neuromeld.planning.recipe import Recipe
from neuromeld.runtime.distributed import is_first_rank, process_group
from neuromeld.runtime.journal import NO_JOURNAL, Journal, open_journal
from neuromeld.stages.windows import SEARCH_TOKENS, SEARCH_TOKENS_OF_IMAGES
from neuromeld.version import versions


@contextmanager
def open_job(out: Path) -> Iterator[Journal]:
    """Join the other processes, if there are any, and open the journal of `out`, which the first one alone has."""
    with process_group(), open_journal(out) if is_first_rank() else nullcontext(NO_JOURNAL) as journal:
        yield journal


def identity_of(
    source: ModelSource,
    data: Examples,
    validation: Examples | None,
    dtype: torch.dtype | None,
    device: str,
    passes: PassFormat,
) -> dict[str, Any]:
    """Return the facts that decide the result beside the recipe."""
    return {
        "model_sha256": source.fingerprint(),
        "calibration_sha256": data.sha256,
        "validation_sha256": validation and validation.sha256,
        "dtype": dtype and str(dtype),
        "device": device,
        "passes": passes,
        "versions": versions(),
    }


def search_batches(recipe: Recipe, source: ModelSource, reader: Modality) -> Sequence[Batch]:
    """Return the validation batches that windows of layers are chosen on; none where the recipe chooses none."""
    found = search_examples(recipe, source, reader)
    return found.batches if found else []


def search_examples(recipe: Recipe, source: ModelSource, reader: Modality) -> Examples | None:
    """Return the validation data that windows of layers are chosen on; None where the recipe chooses none."""
    if not recipe.searches:
        return None
    config = source.config()
    most = SEARCH_TOKENS_OF_IMAGES if inputs_of(config) == "images" else SEARCH_TOKENS
    return reader.validation(recipe.calibration, reader.processor(source.folder), config, most)


def outcome_for(source: str, seqlen: int, processor: Any, config: PretrainedConfig) -> tuple[Outcome | None, list[str]]:
    """Return the comparison of the model before and after; a warning instead where there is no evaluation text.

    Models that read something else than text are not looked at.  What was calibrated on a mixture is looked at on the
    first text that is named in it, and on the usual one where the model wrote all of it, or read images.
    """
    if inputs_of(config) != "tokens":
        return None, []
    source = (None if holds_captions(source) else first_named(source)) or Tokens.default
    try:
        windows = first_windows(source, processor, split="evaluation", most=OUTCOME_TOKENS, seqlen=seqlen)
    except UserInputError as error:
        return None, [f"what it lost was not measured: {error}"]
    return Outcome(processor, windows), []


def plan_of(
    source: ModelSource,
    recipe: Recipe,
    dtype: torch.dtype | None,
    max_memory: int | None = None,
    processor: Any = None,
    device_memory: int | None = None,
) -> Plan:
    """Return the plan of a recipe for a model on the disk; `processor` is read there unless it is given."""
    config = source.config()
    told: list[str] = []
    if recipe.reads_processor:
        recipe, told = recipe.settled(processor or reader_for(config).processor(source.folder), config)
    own = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    model, dtype_after = meta_model(config), dtype or own
    plan = make_plan(model, recipe, dtype=dtype_after, max_memory=max_memory, device_memory=device_memory)
    left = check_companions(
        source.folder,
        width=(plan.before.hidden, plan.after.hidden),
        layers=(plan.before.num_layers, plan.after.num_layers),
    )
    plan = replace(plan, warnings=(*plan.warnings, *left), told=tuple(told))
    if plan.memory_mapped:
        source.check_stays_in_files()
    if plan.memory_mapped or plan.on_device:
        check_not_own(recipe.calibration.source)
    return plan


def check_alone(ranks: int) -> None:
    """Raise `UserInputError` unless a job whose weights lie elsewhere runs alone."""
    if ranks > 1:
        raise UserInputError("--max-memory and --device-memory are for one process: leave torchrun, or --ranks, out")


def device_limit(device: str, max_memory: int | None, asked: int | None) -> int | None:
    """Return the bytes of a device that a job may take: on a card that weights are to come to, what is free there."""
    if asked is not None or max_memory is None or torch.device(device).type != "cuda":
        return asked
    return torch.cuda.mem_get_info(device)[0]
