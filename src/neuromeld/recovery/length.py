"""How long a model is trained: in updates, in tokens, or in minutes."""

import time

import torch
from torch import nn
from transformers import PreTrainedModel

from neuromeld.errors import UserInputError
from neuromeld.modalities import TrainingSet
from neuromeld.recovery.settings import Job

TIMED = 2
"""Updates that are timed, after one that warms up."""


def steps_of(
    model: nn.Module, teacher: PreTrainedModel | None, pool: TrainingSet, job: Job, started: float
) -> int | None:
    """Return the number of updates that the settings ask for; None where they ask for none.

    started   of the training, by `time.monotonic`: what it took until now counts as part of `minutes`

    Raises `UserInputError` for a length that is less than one update.
    """
    settings = job.settings
    tokens = settings.batch_examples(pool) * pool.num_tokens / pool.num_examples
    if settings.tokens is not None:
        found = int(settings.tokens // tokens)
        if not found:
            raise UserInputError(f"tokens={settings.tokens} is less than one update of {tokens:.0f}; raise it")
        return found
    if settings.minutes is None:
        return settings.steps
    left = 60 * settings.minutes - (time.monotonic() - started)
    seconds = seconds_of_update(model, teacher, pool, job)
    if left < seconds:
        raise UserInputError(
            f"minutes={settings.minutes:g} leave {max(0.0, left):.0f} s for updates of {seconds:.1f} s each; raise it"
        )
    return int(left // seconds)


def seconds_of_update(model: nn.Module, teacher: PreTrainedModel | None, pool: TrainingSet, job: Job) -> float:
    """Return the time that the passes of one update take; the weights stay as they are."""
    from neuromeld.recovery.trainer import loss_of

    settings = job.settings
    size = settings.batch_examples(pool) // settings.accumulate
    batch = {name: value.to(job.device) for name, value in pool.batch_of(range(size)).items()}
    training, times = model.training, []
    model.train()
    for _ in range(1 + TIMED):
        begun = time.monotonic()
        with torch.enable_grad(), torch.autocast(job.device.type, torch.bfloat16, enabled=job.bf16):
            loss_of(model, teacher, batch, settings).backward()
        model.zero_grad()
        times.append(time.monotonic() - begun)
    model.train(training)
    return settings.accumulate * sum(times[1:]) / TIMED
