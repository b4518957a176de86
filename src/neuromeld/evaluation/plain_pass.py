"""The unit that the cost of a job is counted in: a plain forward pass over its calibration data, head included."""

import time
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import nn

from neuromeld.errors import UserInputError
from neuromeld.evaluation.mode import eval_mode
from neuromeld.model.capture import Batch
from neuromeld.model.predictions import measure_in_chunks, predictions

TICK = 0.01
"""Seconds, for a pass during which the clock stood still: some count processor time in ticks of so many."""


@torch.no_grad()
def plain_pass_seconds(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Return the processor time of a pass over the batches, measured on the first one, which is run twice."""
    first = batches[0]
    with eval_mode(model):
        for _ in range(2):  # memory is touched for the first time in the first
            started = time.process_time()
            with suppress(UserInputError):  # what predicts nothing has run to its end all the same
                found = measure_in_chunks(lambda logits, _: logits[:, :1], predictions(model, first))
                found.cpu()  # a card is waited for
            seconds = time.process_time() - started
    return (seconds or TICK) * sum(map(_examples, batches)) / _examples(first)


def _examples(batch: Batch) -> int:
    return len(next(iter(batch.values())))
