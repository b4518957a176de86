"""The loss of a model on batches, for comparing versions of it on the way."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from neuromeld.errors import NumericsError
from neuromeld.evaluation.mode import eval_mode
from neuromeld.model.capture import predictions

ROWS_PER_BLOCK = 512
"""Predictions whose logits are held in float32 at once: 100 MB with a vocabulary of 49152."""


@torch.no_grad()
def mean_loss(model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> float:
    """Return the nats per prediction: of `labels` where a batch has them, else of each token of `input_ids` from those
    before.

    Infinite, not an error, where a logit is not finite.  `UserInputError` for a model that predicts nothing, and for
    one that does not predict the next token where there are no labels.
    """
    return mean_of(batch_losses(model, batches))


def batch_losses(model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> list[tuple[float, int]]:
    """Return the nats and the number of predictions of each batch, as `mean_loss` counts them."""
    losses = []
    with eval_mode(model):
        for batch in batches:
            logits, targets = predictions(model, batch)
            try:
                nats = sum_nll(logits, targets)
            except NumericsError:
                nats = math.inf
            losses.append((nats, len(targets)))
    return losses


def mean_of(losses: Sequence[tuple[float, int]]) -> float:
    """Return the nats per prediction of several batches."""
    return sum(nats for nats, _ in losses) / sum(count for _, count in losses)


def sum_nll(logits_nv: Tensor, targets_n: Tensor) -> float:
    """Sum the negative log-likelihood of all targets, in nats; `NumericsError` where a logit is not finite."""
    total = 0.0
    for logits, targets in zip(logits_nv.split(ROWS_PER_BLOCK), targets_n.split(ROWS_PER_BLOCK), strict=True):
        logits = logits.float()
        if not torch.isfinite(logits).all():
            raise NumericsError(
                "the model's logits contain NaN or infinity; in float16 this is usually overflow: "
                "evaluate in bfloat16 or float32"
            )
        total += F.cross_entropy(logits, targets, reduction="none").double().sum().item()
    return total
