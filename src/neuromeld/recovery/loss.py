"""What is trained: the loss of a batch, on the text or towards the predictions of the original.

Suffixes of tensors: n predictions, v what is told apart.
"""

from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from neuromeld.model.capture import Batch
from neuromeld.model.predictions import kl, nll, predictions, sum_in_chunks
from neuromeld.recovery.settings import Recovery


def distillation_loss(settings: Recovery, logits_nv: Tensor, expected_nv: Tensor, targets_n: Tensor) -> Tensor:
    """Return `(1 - w) cross-entropy + w T^2 KL(expected || found)`, softened by T, of each row (arXiv:1503.02531)."""
    share, temperature = settings.distill_weight, settings.temperature
    distilled = share * temperature**2 * kl(logits_nv, expected_nv, temperature=temperature)
    return distilled if share == 1 else (1 - share) * nll(logits_nv, targets_n) + distilled


def loss_of(model: nn.Module, teacher: PreTrainedModel | None, batch: Batch, *, settings: Recovery) -> Tensor:
    """Return the mean loss of a batch; with a teacher, that of distillation."""
    found = predictions(model, batch)
    if teacher is None:
        return sum_in_chunks(nll, found) / len(found)
    with torch.no_grad():
        expected = predictions(teacher, batch)
    return sum_in_chunks(partial(distillation_loss, settings), found, expected) / len(found)
