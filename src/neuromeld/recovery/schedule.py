"""The learning rate of each update, as a share of the peak."""

import math

from neuromeld.recovery.settings import Recovery

TIMESCALE = 10_000
"""Updates in which `inverse_sqrt` falls to 1 / sqrt(2) where there is no warm-up; with one, its length."""


def rate_of(settings: Recovery, step: int) -> float:
    """Return the learning rate of an update, counted from 0: a line up to the peak, then the schedule."""
    assert settings.steps is not None
    warmup = settings.warmup_steps
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    behind, ahead = step - warmup, settings.steps - warmup
    if settings.schedule == "linear":
        way = min(1.0, behind / ((settings.decay_steps or settings.steps) - warmup))
        return settings.learning_rate + way * (settings.final_learning_rate - settings.learning_rate)
    if settings.schedule == "cosine":
        return settings.learning_rate * (1 + math.cos(math.pi * behind / ahead)) / 2
    if settings.schedule == "inverse_sqrt":
        return settings.learning_rate / math.sqrt(1 + behind / (warmup or TIMESCALE))
    return settings.learning_rate
