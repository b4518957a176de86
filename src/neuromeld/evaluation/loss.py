"""The loss of a model on batches, for comparing versions of it on the way."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from neuromeld.errors import NumericsError
from neuromeld.evaluation.mode import eval_mode
from neuromeld.model.predictions import Predictions, measure_in_chunks, nll, predictions


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
            found = predictions(model, batch)
            try:
                nats = sum_nll(found)
            except NumericsError:
                nats = math.inf
            losses.append((nats, len(found)))
    return losses


def mean_of(losses: Sequence[tuple[float, int]]) -> float:
    """Return the nats per prediction of several batches."""
    return sum(nats for nats, _ in losses) / sum(count for _, count in losses)


def sum_nll(found: Predictions) -> float:
    """Sum the negative log-likelihood of all targets, in nats; `NumericsError` where a logit is not finite."""
    return total(measure_in_chunks(finite_nll, found))


def finite_nll(logits_nv: Tensor, targets_n: Tensor) -> Tensor:
    """Return the negative log-likelihood of each target, `(n,)`, in nats; NaN where a logit is not finite."""
    bounds = torch.stack(logits_nv.aminmax(dim=-1))
    return nll(logits_nv, targets_n).where(bounds.isfinite().all(0), math.nan)


def nll_and_correct(logits_nv: Tensor, targets_n: Tensor) -> Tensor:
    """Return the negative log-likelihood of each target and 1.0 where it is the likeliest, else 0.0, `(n, 2)`."""
    return torch.stack([finite_nll(logits_nv, targets_n), logits_nv.argmax(-1) == targets_n], dim=1)


def total(nll_n: Tensor) -> float:
    """Sum in float64; `NumericsError` where a value is not finite."""
    if not torch.isfinite(nll_n).all():
        raise NumericsError(
            "the model's logits contain NaN or infinity; in float16 this is usually overflow: "
            "evaluate in bfloat16 or float32"
        )
    return nll_n.double().sum().item()
