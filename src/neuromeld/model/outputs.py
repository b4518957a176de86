"""What a model says of a batch, whatever its head."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from neuromeld.model.capture import Batch, model_inputs


@torch.no_grad()
def outputs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return the logits of a model; of a head for spans those of starts and ends, `(batch, time, 2)`; without a head
    the last hidden states.
    """
    found = model(**model_inputs(model, batch))
    if "start_logits" in found and "end_logits" in found:
        return torch.stack([found.start_logits, found.end_logits], dim=-1)
    result: Tensor = found.logits if "logits" in found else found.last_hidden_state
    return result
