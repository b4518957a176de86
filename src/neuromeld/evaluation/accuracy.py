"""Top-1 accuracy: of a classifier, or of the next tokens."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from neuromeld.errors import NumericsError, UserInputError
from neuromeld.evaluation.loss import nll_and_correct, total
from neuromeld.evaluation.mode import eval_mode
from neuromeld.model.capture import Batch
from neuromeld.model.predictions import measure_in_chunks, predictions


@dataclass(frozen=True)
class Accuracy:
    """`correct` has one entry a prediction, in order; `nll` is the mean negative log-likelihood of them in nats."""

    correct: tuple[bool, ...]
    nll: float

    @property
    def accuracy(self) -> float:
        """Return the share of predictions whose likeliest class or token is the right one."""
        return sum(self.correct) / len(self.correct)


@torch.no_grad()
def top1_accuracy(model: PreTrainedModel, batches: Iterable[Batch]) -> Accuracy:
    """Measure how often a model is right: on `labels` where batches have them, else on each next token.

    `NumericsError` when a logit is NaN or infinite, `UserInputError` for a model or batches without classes.
    """
    correct: list[bool] = []
    nll = 0.0
    with eval_mode(model):
        for batch in batches:
            nll_n, correct_n = measure_in_chunks(nll_and_correct, predictions(model, batch)).unbind(1)
            nll += total(nll_n)
            correct += correct_n.bool().tolist()
    if not correct:
        raise UserInputError("there is nothing to measure accuracy on: give at least one example")
    return Accuracy(tuple(correct), nll / len(correct))


def batch_errors(model: PreTrainedModel, batches: Iterable[Batch]) -> list[tuple[float, int]]:
    """Return how many predictions of each batch are wrong, and how many there are, as `batch_losses` has the nats.

    All are wrong where a logit is not finite.
    """
    found = []
    for batch in batches:
        try:
            correct = top1_accuracy(model, [batch]).correct
            found.append((float(correct.count(False)), len(correct)))
        except NumericsError:
            number = len(predictions(model, batch))
            found.append((float(number), number))
    return found
