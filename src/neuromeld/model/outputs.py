"""Read what a model says of a batch, whatever its head."""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from neuromeld.model.capture import IGNORED, Batch, model_inputs
from neuromeld.model.passes import forward_pass, own_format


@torch.no_grad()
def outputs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return the logits of a model; of a head for spans those of starts and ends, `(batch, time, 2)`; without a head
    what it projects to, or the last hidden states.
    """
    found = model(**model_inputs(model, batch))
    if "start_logits" in found and "end_logits" in found:
        return torch.stack([found.start_logits, found.end_logits], dim=-1)
    if "image_embeds" in found and "logits" not in found:
        return cast(Tensor, found.image_embeds)
    result: Tensor = found.logits if "logits" in found else found.last_hidden_state
    return result


@dataclass(frozen=True)
class Said:
    """Hold what a model says of each text, image or token of a batch, a row each.

    kind  logits of what is one of several; numbers, one a row; embeddings, what it projects to, or the mean hidden
          states of a text or image
    """

    kind: Literal["logits", "numbers", "embeddings"]
    rows: Tensor


@torch.no_grad()
def said(model: PreTrainedModel, batch: Batch) -> Said:
    """Return what a model says of a batch, in its own format, without padding; where there are labels, of what they
    name.
    """
    with forward_pass():
        found: Any = model(**model_inputs(model, batch))
    if "start_logits" in found:
        return Said("logits", own_format(torch.cat([found.start_logits, found.end_logits])))
    if "logits" not in found and "image_embeds" in found:
        return Said("embeddings", own_format(found.image_embeds))
    if "logits" not in found:
        return Said("embeddings", _embeddings(own_format(found.last_hidden_state), batch))
    logits = own_format(found.logits)
    labels, mask = batch.get("labels"), batch.get("attention_mask")
    wanted = labels != IGNORED if labels is not None else mask
    if wanted is not None and wanted.shape == logits.shape[:-1]:
        logits = logits[wanted.to(logits.device).bool()]
    return Said("numbers" if logits.shape[-1] == 1 else "logits", logits.reshape(-1, logits.shape[-1]))


def _embeddings(hidden: Tensor, batch: Batch) -> Tensor:
    positions = hidden.flatten(1, -2)
    mask = batch.get("attention_mask")
    if mask is None or mask.shape != positions.shape[:2]:
        return positions.mean(1)
    real = mask.to(hidden.device, hidden.dtype).unsqueeze(-1)
    return (positions * real).sum(1) / real.sum(1)
