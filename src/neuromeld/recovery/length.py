"""How long a model is trained: in updates, in tokens, or in minutes."""

import time

import torch

from neuromeld.errors import UserInputError
from neuromeld.recovery.loop import LOOKS, Training, on_device, optimizer_of, trained_parts
from neuromeld.recovery.ranks import own_part
from neuromeld.recovery.rates import SHARE
from neuromeld.recovery.sharding import take_gradients

TIMED = 2
"""Updates that are timed, after one that warms up."""


def steps_of(training: Training, started: float) -> int | None:
    """Return the number of updates that the settings ask for; None where they ask for none.

    started   of the job, by `time.monotonic`: what it took until now counts as part of `minutes`, as do looks at
              held-out data and trials of learning rates

    Raises `UserInputError` for a length that is less than one update.
    """
    settings, tokens = training.settings, training.tokens_of_update
    if settings.tokens is not None:
        found = int(settings.tokens // tokens)
        if not found:
            raise UserInputError(f"tokens={settings.tokens} is less than one update of {tokens:.0f}; raise it")
        return found
    if settings.minutes is None:
        return settings.steps
    seconds, looking = seconds_of_update(training), _seconds_of_look(training)
    left = (60 * settings.minutes - (time.monotonic() - started)) / (1 + SHARE * len(settings.rates or ()))
    often = (left - looking) / (seconds + looking / training.least_between)
    found = int(max(often, (left - LOOKS * looking) / seconds))
    if found < 1:
        raise UserInputError(
            f"minutes={settings.minutes:g} leave {max(0.0, left):.0f} s for updates of {seconds:.1f} s each and a look "
            f"at held-out data of {looking:.1f} s; raise it"
        )
    return found


def seconds_of_update(training: Training) -> float:
    """Return the time that one update takes; the weights stay as they are."""
    model, settings = training.model, training.settings
    parts = trained_parts(model)
    optimizer = optimizer_of(parts)
    size = settings.batch_examples(training.pool) // settings.accumulate
    batch = on_device(training.pool.batch_of(own_part(range(size))), training.device)
    was_training, times = model.training, []
    model.train()
    for _ in range(1 + TIMED):
        begun = time.monotonic()
        with torch.enable_grad():
            loss = training.loss_of(batch)
            loss.backward()
        passed = _now(training.device)
        take_gradients(parts.values(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        times.append(settings.accumulate * (passed - begun) + _now(training.device) - passed)
    model.train(was_training)
    return sum(times[1:]) / TIMED


def _now(device: torch.device) -> float:
    """Return the time at which the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def _seconds_of_look(training: Training) -> float:
    begun = time.monotonic()
    training.look()
    return time.monotonic() - begun
