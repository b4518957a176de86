"""A short sweep of learning rates: each is tried from the same start, and held-out data says which is taken."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from neuromeld.errors import NumericsError
from neuromeld.recovery.loop import Training
from neuromeld.recovery.ranks import once_for_all
from neuromeld.recovery.resume import RATE
from neuromeld.runtime.journal import NO_JOURNAL, Journal

SHARE, LEAST = 0.1, 8
"""Of the updates that a rate is tried for, with the whole schedule; and so many at least, where there are as many."""


@dataclass(frozen=True)
class Tried:
    """A learning rate, and the held-out loss after so many updates with it; None where a loss was not finite."""

    learning_rate: float
    steps: int
    loss: float | None


def best_rate(training: Training, rates: Sequence[float], journal: Journal) -> tuple[float, list[Tried]]:
    """Return the rate whose trial ends with the lowest loss on held-out data, and all trials.

    The model's weights are as before in the end.  `NumericsError` where no trial has a finite loss.
    """
    tried = [Tried(**once_for_all(journal, f"{RATE}{rate:g}", _trial, training, rate)) for rate in rates]
    best = min(tried, key=lambda trial: math.inf if trial.loss is None else trial.loss)
    if best.loss is None:
        raise NumericsError(
            f"the loss is not finite at any learning rate of {', '.join(f'{rate:g}' for rate in rates)}; lower --rates"
        )
    return best.learning_rate, tried


def _trial(training: Training, rate: float) -> dict[str, Any]:
    steps = min(training.steps, max(LEAST, round(SHARE * training.steps)))
    settings = training.settings.of_steps(steps).model_copy(update={"learning_rate": rate, "patience": steps + 1})
    trained = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    start = [parameter.detach().clone() for parameter in trained]
    try:
        loss = replace(training, settings=settings, journal=NO_JOURNAL).run(lambda _: None).looks[-1].loss
    except NumericsError:
        loss = None
    with torch.no_grad():
        for parameter, value in zip(trained, start, strict=True):
            parameter.copy_(value)
            parameter.grad = None
    return asdict(Tried(rate, steps, loss))
