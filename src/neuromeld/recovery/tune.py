"""Train a model in place and leave it as it came: its dtype, mode, config and forward pass."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from neuromeld.errors import UserInputError
from neuromeld.evaluation import unique_parameters
from neuromeld.evaluation.mode import eval_mode
from neuromeld.modalities import TrainingSet
from neuromeld.model.passes import passes_in
from neuromeld.planning.plan import architecture_of
from neuromeld.recovery.four_bit import matrix_bytes
from neuromeld.recovery.layerwise import LayerwiseTraining, TrainedLayer, depths_of, ends_of
from neuromeld.recovery.length import steps_of
from neuromeld.recovery.loop import Trained, Training
from neuromeld.recovery.lora import low_rank_updates
from neuromeld.recovery.loss import loss_of
from neuromeld.recovery.ranks import once_for_all, told_by_first
from neuromeld.recovery.rates import Tried, best_rate
from neuromeld.recovery.settings import Job, Recovery
from neuromeld.recovery.sharding import sharded
from neuromeld.runtime.journal import NO_JOURNAL, Journal
from neuromeld.runtime.paging import drop_pages
from neuromeld.runtime.progress import track


@dataclass(frozen=True)
class Tuning:
    """Tell what was done to a model.

    settings      with the number of steps and the learning rate that were found; none where only layers were trained
    rates         that were tried before
    layers        that were trained first, each by itself
    matrix_bytes  what the base's matrices took in 4 bits (`held`), and take in their `own_dtype`
    """

    settings: Recovery
    trained: Trained | None = None
    rates: Sequence[Tried] = ()
    parameters_trained: int = 0
    layers: list[TrainedLayer] = field(default_factory=list)
    matrix_bytes: dict[str, int] | None = None


def tune(
    model: PreTrainedModel, original: PreTrainedModel | None, pool: TrainingSet, job: Job, *, progress: bool
) -> Tuning:
    """Train `model` in place.

    Half-precision weights are trained in float32 and rounded at the end; under low-rank updates they stay as they are,
    or are held in 4 bits, until the merge.  Raises `NumericsError` at a loss that is not finite, `UserInputError` when
    memory runs out.
    """
    settings, started = job.settings, time.monotonic()
    parameters = unique_parameters(model)
    torch.manual_seed(settings.seed)
    try:
        with passes_in(job.passes, model):
            layers = _train_layers(model, original, job, progress=progress) if original and job.by_layer else []
            known = None if layers or job.base else job.loss_before
            with _trainable(model, job) as changed:
                loss = partial(loss_of, changed, original, settings=settings)
                look = partial(_look, job, changed if settings.shard else model)
                run = Training(changed, loss, pool, settings, job.device, look, job.journal, known)
                result = _train(run, job, started, progress=progress)
    except torch.OutOfMemoryError as error:
        raise UserInputError(
            f"{job.device} has too little memory for an update of {settings.batch_examples(pool)} examples; take them "
            f"in more parts (--accumulate, now {settings.accumulate})"
            + ("" if job.base else ", or pass --qlora" if settings.lora_rank else ", or pass --lora or --qlora")
        ) from error
    model.eval()
    assert unique_parameters(model) == parameters, "training changed the number of parameters"
    return replace(result, layers=layers)


def _look(job: Job, model: Any) -> float:
    if not job.settings.shard:
        return told_by_first(lambda: job.measure(model).nll)
    found = job.measure(model).nll  # layers are whole while all processes run them
    return told_by_first(lambda: found)


def _train_layers(model: PreTrainedModel, original: PreTrainedModel, job: Job, *, progress: bool) -> list[TrainedLayer]:
    whole = architecture_of(original)
    ends = ends_of(whole, depths_of(model, whole), job.dropped)
    rate, clip = job.settings.layerwise_rate, job.settings.clip
    with _in_float32(model, job.journal), eval_mode(model), eval_mode(original):
        training = LayerwiseTraining(model, original, whole, ends, job.by_layer, rate, clip, job.journal)
        with track("layers one at a time", len(ends), enabled=progress) as advance:
            return training.run(advance)


def _train(run: Training, job: Job, started: float, *, progress: bool) -> Tuning:
    """Find the length and the learning rate, and train."""
    journal = job.journal if job.settings.minutes else NO_JOURNAL
    steps = once_for_all(journal, "steps", steps_of, run, started)
    if steps is None:
        return Tuning(job.settings)
    run = replace(run, settings=job.settings.of_steps(steps))
    tried: list[Tried] = []
    if job.settings.rates:
        rate, tried = best_rate(run, job.settings.rates, job.journal)
        run = replace(run, settings=run.settings.model_copy(update={"learning_rate": rate}))
    with track("recovery tuning", steps, enabled=progress) as advance:
        trained = run.run(advance)
    parameters = sum(parameter.numel() for parameter in run.model.parameters() if parameter.requires_grad)
    return Tuning(run.settings, trained, tried, parameters, matrix_bytes=matrix_bytes(run.model) if job.base else None)


@contextmanager
def _trainable(model: PreTrainedModel, job: Job) -> Iterator[nn.Module]:
    """Return the model as it is trained, and put what was trained into its weights at the end."""
    settings = job.settings
    if settings.lora_rank is not None:
        with low_rank_updates(model, settings.lora_rank, job.base) as changed:
            yield changed
    else:
        whole = sharded(model) if settings.shard else nullcontext(model)
        with _in_float32(model, job.journal), _only(model, settings.only), whole as changed:
            yield changed


@contextmanager
def _in_float32(model: nn.Module, journal: Journal) -> Iterator[None]:
    """Let weights of half precision be in float32 inside: rotary frequencies are in a model that was loaded so."""
    dtype = next(model.parameters()).dtype
    _cast(model, torch.promote_types(dtype, torch.float32), journal)
    yield
    _cast(model, dtype, journal)


def _cast(model: nn.Module, dtype: torch.dtype, journal: Journal) -> None:
    for parameter in model.parameters():
        if parameter.dtype != dtype:
            before = parameter.data
            parameter.data = journal.offload(before.to(dtype))
            if journal.memory_mapped:
                drop_pages([before, parameter.data])


@contextmanager
def _only(model: PreTrainedModel, what: str | None) -> Iterator[None]:
    """Let one kind of parameters be trained inside."""
    if what is None:
        yield
        return
    ends = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    embeddings = {parameter for module in ends for parameter in module.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in embeddings if what == "embeddings" else parameter.ndim < 2)
    yield
    model.requires_grad_(True)
