"""From a checkpoint to a smaller one: plan, compress, save, load again and compare."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PretrainedConfig

from neuromeld.checkpoint import (
    check_free,
    new_folder,
    outputs,
    render_card,
    save_checkpoint,
    save_record,
    verify_checkpoint,
    weight_files,
)
from neuromeld.checkpoint.companions import card_facts, check_companions, copy_companions
from neuromeld.checkpoint.folder import written_files
from neuromeld.checkpoint.loading import auto_classes
from neuromeld.checkpoint.source import ModelSource, locate
from neuromeld.data.calibration import Calibration
from neuromeld.data.text import first_windows
from neuromeld.errors import UserInputError
from neuromeld.evaluate import OUTCOME_TOKENS, Outcome, bytes_on_disk
from neuromeld.modalities import Examples, inputs_of, reader_for
from neuromeld.model.capture import Batch
from neuromeld.planning import Budget, Choice, Planner
from neuromeld.planning.memory import INTERPRETER_BYTES
from neuromeld.planning.pipeline import compress_model
from neuromeld.planning.plan import Plan, make_plan, meta_model
from neuromeld.planning.recipe import Recipe
from neuromeld.report import save_report
from neuromeld.report.record import compression_record
from neuromeld.runtime.distributed import is_first_rank, num_ranks, own_device, process_group, wait_for_all
from neuromeld.runtime.journal import NO_JOURNAL, Journal, open_journal
from neuromeld.runtime.memory import keep_no_freed_memory, peak_rss_bytes, release_memory
from neuromeld.runtime.progress import timed
from neuromeld.version import versions

SEARCH_TOKENS, SEARCH_TOKENS_OF_IMAGES = 4096, 16384
"""Validation tokens that windows of layers are chosen on; all tokens of an image make one prediction."""

FINAL_TOKENS = 16384
"""Validation tokens that the finalists of a budget are measured on."""

SHARD_BYTES = 5_000_000_000
"""The size of a file of weights, at most."""


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


def plan_for(
    source: str,
    recipe: Recipe,
    *,
    dtype: torch.dtype | None = None,
    allow_pickle: bool = False,
    max_memory: int | None = None,
) -> Plan:
    """The dry run: what `compress` would make, from the config alone."""
    return _plan(locate(source, allow_pickle=allow_pickle), recipe, dtype, max_memory)


def choose(
    source: str,
    budget: Budget,
    calibration: Calibration | None = None,
    output: Literal["auto", "stock", "native"] = "auto",
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    allow_pickle: bool = False,
    journal: Journal = NO_JOURNAL,
    force: bool = False,
    progress: bool = False,
) -> Choice:
    """The recipe that meets a budget and loses least on validation text, for the model at `source`.

    journal   of the output that the recipe is chosen for: it takes and gives the losses of candidates, and the changes
              that the best of them are made of, so that `compress` need not make them again
    force     discard what the journal has of another job

    Candidates are built in memory; nothing else is written.
    """
    text, device = calibration or Calibration(), own_device(device)
    located = locate(source, allow_pickle=allow_pickle)
    config = located.config()
    if (inputs := inputs_of(config)) != "tokens":
        raise UserInputError(
            f"budgets are for language models, and {source} reads {inputs}: name stages, as with --ffn-ratio or "
            "--share-ffns"
        )
    reader = reader_for(config)
    processor = reader.processor(located.folder)
    data = reader.calibration(text, processor, config, text.tokens)
    validation = reader.validation(text, processor, config, FINAL_TOKENS)
    identity = _identity(located, data, validation, dtype, device) | {"calibration": text.model_dump()}
    journal.begin({"job": "choose a recipe", "budget": asdict(budget), "output": output} | identity, force=force)
    model = located.load(dtype, device)
    return Planner(
        model,
        budget,
        text,
        output,
        data.batches,
        validation.batches,
        journal=journal if num_ranks() == 1 else NO_JOURNAL,
        progress=progress and is_first_rank(),
    ).choose()


def compress(
    source: str,
    recipe: Recipe,
    out: str | Path,
    *,
    force: bool = False,
    choice: Choice | None = None,
    journal: Journal | None = None,
    evaluate: bool = True,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    allow_pickle: bool = False,
    max_memory: int | None = None,
    progress: bool = False,
) -> CompressResult:
    """Compress the model at `source` by `recipe` and write it to the folder `out`.

    source   a folder, a hub id, a `.gguf` file, or `package:NAME`
    choice   where `choose` found the recipe: its candidates go into the record
    journal  of `out`, where it is open already; what `choose` has done with it is not done again
    evaluate look at the model before and after: perplexity on a little evaluation text, and what it writes
    dtype    of the model while it is compressed and on disk; None keeps the checkpoint's own
    max_memory  bytes; a job that would take more leaves the weights on the disk, with the same result

    The folder appears complete or not at all: it is written beside, loaded again, compared and then renamed.  What is
    done is kept in a hidden folder beside `out` until then: the same call, made again after an interruption, goes on
    from there, with the same result bit for bit (on as many threads).  Another call for this `out` is refused, unless
    `force` discards what was done.

    Where torchrun started several processes, each takes its share of the calibration batches, and the first one writes;
    finished steps are not kept then.  Raises a `NeuromeldError` for everything that can be wrong with the arguments,
    the model or the disk.
    """
    started = time.monotonic()
    out, device = Path(out), own_device(device)
    check_free(out, force=force, source=source)
    seconds: dict[str, float] = {}
    with open_job(out) if journal is None else nullcontext(journal) as journal:
        with timed(seconds, "reading model and data"):
            located = locate(source, allow_pickle=allow_pickle)
            plan = _plan(located, recipe, dtype, max_memory)
            if plan.memory_mapped:
                _check_place(device)
                keep_no_freed_memory()
            journal.memory_mapped = plan.memory_mapped
            config, settings = located.config(), recipe.calibration
            reader = reader_for(config)
            processor = reader.processor(located.folder)
            data = reader.calibration(settings, processor, config, settings.tokens)
            validation = search_examples(recipe, located)
            identity = _identity(located, data, validation, dtype, device)
            journal.begin({"job": "compress", "recipe": recipe.model_dump()} | identity, force=force)
            looks = evaluate and is_first_rank()
            outcome, warnings = _outcome(data.source, settings.seqlen, processor, config) if looks else (None, [])
            model = located.load(dtype, device, memory_mapped=plan.memory_mapped)
        cache = {"model": located.fingerprint(), "data": data.sha256, "dtype": str(model.dtype)}
        if outcome is not None:
            with timed(seconds, "looking at both models"):
                outcome.before(model)
        alone = num_ranks() == 1
        compressed = compress_model(
            model,
            plan,
            data.batches,
            validation=validation.batches if validation else (),
            cache=cache if alone else None,
            journal=(journal if choice is None else journal.within(choice.name)) if alone else NO_JOURNAL,
            progress=progress and is_first_rank(),
        )
        record = compression_record(located, plan, data, compressed, model)
        record |= card_facts(located.folder) | auto_classes(model, processor) | {"processes": num_ranks()}
        record |= {"steps_recalled": journal.num_recalled} if journal.num_recalled else {}
        if choice is not None:
            record["candidates"] = choice.record()
            warnings += choice.warnings
        if warnings:
            record["warnings"] = [*record.get("warnings", []), *warnings]
        seconds |= compressed.seconds
        del compressed
        if outcome is not None:
            with timed(seconds, "looking at both models"):
                record |= outcome.after(model)
        if is_first_rank():
            with new_folder(out, force=force, beside=journal.folder) as folder:
                with timed(seconds, "writing and verifying"):
                    expected = outputs(model, data.check_batch)
                    model_dtype = model.dtype
                    save_checkpoint(
                        model,
                        processor,
                        folder,
                        recipe_yaml=recipe.to_yaml(),
                        max_shard_size=min(SHARD_BYTES, plan.peak_bytes - INTERPRETER_BYTES),
                        memory_mapped=plan.memory_mapped,
                    )
                    copy_companions(located.folder, folder, width=plan.after.hidden)
                    del model
                    release_memory()
                    difference = verify_checkpoint(
                        folder, expected, data.check_batch, dtype=model_dtype, memory_mapped=plan.memory_mapped
                    )
                    record |= {"logit_difference": difference}
                    record |= {"bytes_on_disk": bytes_on_disk(folder)}
                record |= {"seconds": time.monotonic() - started, "seconds_by_phase": seconds}
                record |= {"peak_rss_bytes": peak_rss_bytes()}
                if max_memory is not None:
                    predicted = {"peak_rss_bytes": plan.peak_bytes, "disk_bytes": plan.disk_bytes}
                    record |= {
                        "memory": {"max_bytes": max_memory, "memory_mapped": plan.memory_mapped, "predicted": predicted}
                    }
                record |= {"files": written_files(folder)}
                save_record(folder, record, card=render_card(record))
                save_report(folder)
        wait_for_all()
    return CompressResult(out, plan, record)


@contextmanager
def open_job(out: Path) -> Iterator[Journal]:
    """Join the other processes, if there are any, and open the journal of `out`, which the first one alone has."""
    with process_group(), open_journal(out) if is_first_rank() else nullcontext(NO_JOURNAL) as journal:
        yield journal


def _identity(
    source: ModelSource, data: Examples, validation: Examples | None, dtype: torch.dtype | None, device: str
) -> dict[str, Any]:
    """What decides the result beside the recipe."""
    return {
        "model_sha256": source.fingerprint(),
        "calibration_sha256": data.sha256,
        "validation_sha256": validation and validation.sha256,
        "dtype": dtype and str(dtype),
        "device": device,
        "versions": versions(),
    }


def search_batches(recipe: Recipe, source: ModelSource) -> Sequence[Batch]:
    """The validation batches that windows of layers are chosen on; none where the recipe chooses none."""
    found = search_examples(recipe, source)
    return found.batches if found else []


def search_examples(recipe: Recipe, source: ModelSource) -> Examples | None:
    """The validation data that windows of layers are chosen on; None where the recipe chooses none."""
    if not recipe.searches:
        return None
    config = source.config()
    reader = reader_for(config)
    most = SEARCH_TOKENS_OF_IMAGES if inputs_of(config) == "images" else SEARCH_TOKENS
    return reader.validation(recipe.calibration, reader.processor(source.folder), config, most)


def _outcome(source: str, seqlen: int, processor: Any, config: PretrainedConfig) -> tuple[Outcome | None, list[str]]:
    """What looks at the model before and after; a warning instead where the source has no evaluation text.

    Models that read something else than text are not looked at.
    """
    if inputs_of(config) != "tokens":
        return None, []
    try:
        windows = first_windows(source, processor, split="evaluation", most=OUTCOME_TOKENS, seqlen=seqlen)
    except UserInputError as error:
        return None, [f"what it lost was not measured: {error}"]
    return Outcome(processor, windows), []


def _plan(source: ModelSource, recipe: Recipe, dtype: torch.dtype | None, max_memory: int | None = None) -> Plan:
    config = source.config()
    own = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    plan = make_plan(meta_model(config), recipe, dtype=dtype or own, max_memory=max_memory)
    left = check_companions(
        source.folder,
        width=(plan.before.hidden, plan.after.hidden),
        layers=(plan.before.num_layers, plan.after.num_layers),
    )
    plan = replace(plan, warnings=(*plan.warnings, *left))
    if plan.memory_mapped:
        _check_files(source, dtype, own)
    return plan


def _check_files(source: ModelSource, dtype: torch.dtype | None, own: torch.dtype) -> None:
    """Raise `UserInputError` where the weights of a memory-mapped job cannot be used as they lie on the disk."""
    problems = []
    if source.gguf_file is not None:
        problems.append(f"{source.name} was converted in memory: pass the converted model instead, {source.folder}")
    if not all(path.suffix == ".safetensors" for path in weight_files(source.folder, allow_pickle=True)):
        problems.append("pickled weights are read into memory: convert them to safetensors")
    if dtype not in (None, own):
        problems.append(f"weights are converted to {dtype} in memory: leave --dtype out")
    if problems:
        raise UserInputError(f"--max-memory needs weights that can stay in their files. {'; '.join(problems)}")


def _check_place(device: str) -> None:
    """Raise `UserInputError` unless a memory-mapped job is to run alone and on the CPU."""
    if device != "cpu" or num_ranks() > 1:
        raise UserInputError(
            "--max-memory is for one process on the CPU, where the weights do not fit: leave out --device and torchrun"
        )
