"""Top-1 accuracy of a classifier."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from neuromeld.errors import UserInputError
from neuromeld.evaluation.loss import finite_nll, total
from neuromeld.evaluation.mode import eval_mode
from neuromeld.model.capture import Batch
from neuromeld.model.predictions import measure_in_chunks, predictions


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
    nll = 0.0
    with eval_mode(model):
        for batch in batches:
            nll_n, correct_n = measure_in_chunks(_nll_and_correct, predictions(model, batch)).unbind(1)
            nll += total(nll_n)
            correct += correct_n.bool().tolist()
    if not correct:
        raise UserInputError("there is nothing to measure accuracy on: give at least one example")
    return Accuracy(tuple(correct), nll / len(correct))


def _nll_and_correct(logits_nv: Tensor, targets_n: Tensor) -> Tensor:
    return torch.stack([finite_nll(logits_nv, targets_n), logits_nv.argmax(-1) == targets_n], dim=1)
