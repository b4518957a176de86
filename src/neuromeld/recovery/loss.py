"""Compute the loss of a batch in recovery, on the text or towards the predictions of the original.

Suffixes of tensors: n predictions, v what is told apart.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from neuromeld.model.capture import Batch
from neuromeld.model.predictions import Predictions, kl, nll, predictions, sum_in_chunks
from neuromeld.recovery.settings import Recovery
from neuromeld.recovery.stored import TOLD, divergence_from_told

Divergence = Callable[[Tensor, Tensor], Tensor]
"""Of each row, `(n,)`, from logits and from what is known of the original's."""


def distillation_loss(
    settings: Recovery, divergence: Divergence, logits_nv: Tensor, expected: Tensor, targets_n: Tensor
) -> Tensor:
    """Return `(1 - w) cross-entropy + w T^2 divergence` of each row, softened by T (arXiv:1503.02531)."""
    share = settings.distill_weight
    distilled = share * settings.temperature**2 * divergence(logits_nv, expected)
    return distilled if share == 1 else (1 - share) * nll(logits_nv, targets_n) + distilled


def loss_of(model: nn.Module, teacher: PreTrainedModel | None, batch: Batch, *, settings: Recovery) -> Tensor:
    """Return the mean loss of a batch; of distillation, with a teacher or a batch that tells what one predicts."""
    inputs = {name: value for name, value in batch.items() if name != TOLD}
    found = predictions(model, inputs)
    if TOLD in batch:
        expected, divergence = _as_told(batch[TOLD].flatten(0, 1), found.targets_n), divergence_from_told
    elif teacher is not None:
        with torch.no_grad():
            expected = predictions(teacher, inputs)
        divergence = partial(kl, temperature=settings.temperature)
    else:
        return sum_in_chunks(nll, found) / len(found)
    return sum_in_chunks(partial(distillation_loss, settings, divergence), found, expected) / len(found)


def _as_told(told: Tensor, targets_n: Tensor) -> Predictions:
    """Return what a stored teacher tells of the predictions, as rows that no head has to be run on."""
    return Predictions(told, targets_n, told.shape[1], lambda rows: rows)
