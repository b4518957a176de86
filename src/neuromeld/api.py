"""From a checkpoint to a smaller one: plan, compress, save, load again and compare."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from neuromeld.checkpoint import check_free
from neuromeld.checkpoint.source import locate
from neuromeld.data.calibration import Calibration
from neuromeld.errors import UserInputError
from neuromeld.jobs.compression import CompressionJob
from neuromeld.jobs.opening import identity_of, open_job, plan_of
from neuromeld.modalities import inputs_of, reader_for
from neuromeld.model.capture import Batch
from neuromeld.planning import Budget, Choice, Planner
from neuromeld.planning.plan import Plan
from neuromeld.planning.recipe import Recipe
from neuromeld.runtime.distributed import is_first_rank, num_ranks, own_device
from neuromeld.runtime.journal import NO_JOURNAL, Journal

FINAL_TOKENS = 16384
"""Validation tokens that the finalists of a budget are measured on."""


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
    source: str,
    recipe: Recipe,
    *,
    dtype: torch.dtype | None = None,
    allow_pickle: bool = False,
    max_memory: int | None = None,
) -> Plan:
    """Return what `compress` would make, from the config alone: the dry run."""
    return plan_of(locate(source, allow_pickle=allow_pickle), recipe, dtype, max_memory)


def calibration_batches(
    source: str, calibration: Calibration | None = None, *, allow_pickle: bool = False
) -> Sequence[Batch]:
    """Return the calibration batches that `compress` would use for the model at `source`, for `compress_model`.

    Each is what the model is called with, such as `input_ids (batch, time)`.
    """
    located = locate(source, allow_pickle=allow_pickle)
    config, settings = located.config(), calibration or Calibration()
    reader = reader_for(config)
    return reader.calibration(settings, reader.processor(located.folder), config, settings.tokens).batches


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
    """Find the recipe that meets a budget and loses least on validation text, for the model at `source`.

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
    identity = identity_of(located, data, validation, dtype, device) | {"calibration": text.model_dump()}
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
    evaluate  look at the model before and after: perplexity on a little evaluation text, and what it writes
    dtype    of the model while it is compressed and on disk; None keeps the checkpoint's own
    max_memory  bytes; a job that would take more leaves the weights on the disk, with the same result

    The folder appears complete or not at all: it is written beside, loaded again, compared and then renamed.  What is
    done is kept in a hidden folder beside `out` until then: the same call, made again after an interruption, goes on
    from there, with the same result bit for bit (on as many threads).  Another call for this `out` is refused, unless
    `force` discards what was done.

    Where torchrun started several processes, each takes its share of the calibration batches, and the first one writes;
    such a job cannot be resumed.  Raises a `NeuromeldError` for everything that can be wrong with the arguments,
    the model or the disk.
    """
    out, device = Path(out), own_device(device)
    check_free(out, force=force, source=source)
    with open_job(out) if journal is None else nullcontext(journal) as journal:
        job = CompressionJob(
            locate(source, allow_pickle=allow_pickle),
            recipe,
            out,
            journal,
            dtype=dtype,
            device=device,
            max_memory=max_memory,
            choice=choice,
            evaluate=evaluate,
            force=force,
            progress=progress,
        )
        plan, record = job.run()
    return CompressResult(out, plan, record)
