"""Top-1 accuracy of a classifier."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from neuromeld.errors import UserInputError
from neuromeld.evaluation.loss import sum_nll
from neuromeld.evaluation.mode import eval_mode
from neuromeld.model.capture import Batch, predictions


@dataclass(frozen=True)
class Accuracy:
    """`correct` has one entry an example, in order; `nll` is the mean negative log-likelihood of the labels in nats."""

    correct: tuple[bool, ...]
    nll: float

    @property
    def accuracy(self) -> float:
        """The share of examples whose likeliest class is their label."""
        return sum(self.correct) / len(self.correct)


@torch.no_grad()
def top1_accuracy(model: PreTrainedModel, batches: Iterable[Batch]) -> Accuracy:
    """Measure how often a classifier is right on batches with `labels`, one an example, each of which is seen once.

    `NumericsError` when a logit is NaN or infinite, `UserInputError` for a model or batches without classes.
    """
    correct: list[bool] = []
    total = 0.0
    with eval_mode(model):
        for batch in batches:
            logits, targets = predictions(model, batch)
            total += sum_nll(logits, targets)
            correct += (logits.argmax(-1) == targets).tolist()
    if not correct:
        raise UserInputError("there is nothing to measure accuracy on: give at least one example")
    return Accuracy(tuple(correct), total / len(correct))
