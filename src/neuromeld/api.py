"""From a checkpoint to a smaller one: plan, compress, save, load again and compare."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from neuromeld.checkpoint import check_free
from neuromeld.checkpoint.source import locate
from neuromeld.data.calibration import Calibration
from neuromeld.jobs.choosing import ChoiceJob
from neuromeld.jobs.compression import CompressionJob
from neuromeld.jobs.opening import open_job, plan_of
from neuromeld.jobs.recovered import compress_and_recover
from neuromeld.modalities import reader_for, with_own_text
from neuromeld.model.capture import Batch
from neuromeld.planning import Budget, Choice
from neuromeld.planning.plan import Plan
from neuromeld.planning.recipe import Recipe
from neuromeld.planning.served import OutputFormat, check_output
from neuromeld.recovery import Recovery
from neuromeld.runtime.distributed import own_device


@dataclass(frozen=True)
class CompressResult:
    """Result of `compress`: the folder it wrote, the plan, and the content of `record.json`."""

    out: Path
    plan: Plan
    record: dict[str, Any]

    @property
    def kept_ratio(self) -> float:
        """Unique parameters on disk over the original's."""
        return float(self.record["kept_ratio"])


def plan(
    source: str | Path,
    recipe: Recipe,
    *,
    dtype: torch.dtype | None = None,
    allow_pickle: bool = False,
    max_memory: int | None = None,
    device_memory: int | None = None,
) -> Plan:
    """Return what `compress` would make, from the config alone: the dry run."""
    located = locate(source, allow_pickle=allow_pickle)
    return plan_of(located, recipe, dtype, max_memory, device_memory=device_memory)


def calibration_batches(
    source: str | Path, calibration: Calibration | None = None, *, allow_pickle: bool = False
) -> Sequence[Batch]:
    """Return the calibration batches that `compress` would use for the model at `source`, for `compress_model`.

    Each is what the model is called with, such as `input_ids (batch, time)`.
    """
    located = locate(source, allow_pickle=allow_pickle)
    config, settings = located.config(), calibration or Calibration()
    reader = with_own_text(reader_for(config), located)
    return reader.calibration(settings, reader.processor(located.folder), config, settings.tokens).batches


def choose(
    source: str | Path,
    budget: Budget,
    calibration: Calibration | None = None,
    output: OutputFormat = "auto",
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    allow_pickle: bool = False,
    progress: bool = False,
    vocab_from: str | None = None,
    effort: str = "standard",
    rank_after: int | None = None,
) -> Choice:
    """Find the recipe that meets a budget and loses least on validation text, for the model at `source`.

    output   the format that the result may have, or engines with commas between that must load it; by default what
             transformers, or both vLLM and llama.cpp, load without neuromeld's code, unless that meets no budget
    vocab_from  a text, named or `file:PATH`, by which tokens may be chosen; without one, all tokens stay
    effort   how much is tried: quick, standard or best
    rank_after  tokens that the finalists are trained on, towards the original's predictions, before they are compared
    dtype    to load and measure in; None keeps the checkpoint's own

    Candidates are built in memory, and nothing is written: `compress` takes what is returned in the place of a recipe.
    """
    located = locate(source, allow_pickle=allow_pickle)
    settings = calibration or Calibration()
    job = ChoiceJob(
        located, budget, settings, check_output(output), dtype=dtype, device=own_device(device), progress=progress
    )
    return replace(job, vocab_from=vocab_from, effort=effort, rank_after=rank_after).run()


def compress(
    source: str | Path,
    recipe: Recipe | Choice,
    out: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    allow_pickle: bool = False,
    max_memory: int | None = None,
    device_memory: int | None = None,
    evaluate: bool = True,
    recovery: Recovery | None = None,
    force: bool = False,
    progress: bool = False,
) -> CompressResult:
    """Compress the model at `source` by `recipe` and write it to the folder `out`.

    source   a folder, a hub id, a `.gguf` file, or `package:NAME`
    recipe   or what `choose` returned, whose candidates then go into the record
    dtype    of the model while it is compressed and on disk; None keeps the checkpoint's own
    max_memory  bytes; a job that would take more leaves the weights on the disk, with the same result
    device_memory  bytes of the device; weights of a job that would take more come there a layer at a time
    evaluate  look at the model before and after: perplexity on a little evaluation text, and what it writes
    recovery  train the result towards the model at `source` before it is written; it is not looked at then
    force    replace the checkpoint in `out`, and discard what another call left unfinished there

    The folder appears complete or not at all: it is written beside, loaded again, compared and then renamed.  What is
    done is kept in a hidden folder beside `out` until then: the same call, made again after an interruption, goes on
    from there, with the same result bit for bit (on as many threads).  Another call for this `out` is refused, unless
    `force` discards what was done.

    Where torchrun started several processes, each takes its share of the calibration batches, and the first one writes;
    such a job cannot be resumed.  Raises a `NeuromeldError` for everything that can be wrong with the arguments,
    the model or the disk.
    """
    source, out, device = str(source), Path(out), own_device(device)
    check_free(out, force=force, source=source)
    choice = recipe if isinstance(recipe, Choice) else None
    with open_job(out) as journal:
        job = CompressionJob(
            locate(source, allow_pickle=allow_pickle),
            recipe.recipe if isinstance(recipe, Choice) else recipe,
            out,
            journal,
            dtype=dtype,
            device=device,
            max_memory=max_memory,
            device_memory=device_memory,
            choice=choice,
            evaluate=evaluate,
            force=force,
            progress=progress,
        )
        plan, record = job.run() if recovery is None else compress_and_recover(job, source, recovery)
    return CompressResult(out, plan, record)
