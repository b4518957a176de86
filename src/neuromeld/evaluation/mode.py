"""Evaluation mode for the length of a measurement."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(*models: nn.Module) -> Iterator[None]:
    """Switch dropout off inside the block; every model is back in its own mode afterwards, also after an error."""
    training = [model.training for model in models]
    for model in models:
        model.train(False)
    try:
        yield
    finally:
        for model, was_training in zip(models, training, strict=True):
            model.train(was_training)
