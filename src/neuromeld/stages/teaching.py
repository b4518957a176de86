"""Learn from the predictions of the model as it came: what that needs, and what it takes."""

import torch
from torch import nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space
from neuromeld.model.capture import backward_batches
from neuromeld.model.learning import Teacher
from neuromeld.model.predictions import measuring_bytes
from neuromeld.runtime.streaming import device_of, is_streaming
from neuromeld.stages.base import Job, Workload, largest_layer_bytes, table_bytes

LIGHT_FROM = 2 << 30
"""Bytes of activations up to which a backward pass keeps them, if they are not more than the weights anyway."""


def teacher_of(job: Job) -> Teacher:
    """Return what numbers of the model are learned by: the predictions of the model that it was made of.

    Where the activations of a window would take much memory, layers are run again for the backward pass.
    """
    batch = backward_batches(job.model, job.data[:1])[0]
    if is_short(job):
        return Teacher(job.model, job.original or job.model, job.arch, light=True)
    activations = activation_bytes(job.arch, next(iter(batch.values())).numel(), job.arch.num_layers)
    return Teacher(job.model, job.original or job.model, job.arch, light=activations > _allowed_bytes(job.model))


def is_short(job: Job) -> bool:
    """Tell whether weights lie elsewhere than what is worked on: layers are then run again for a backward pass."""
    return job.journal.memory_mapped or is_streaming()


def _allowed_bytes(model: nn.Module) -> int:
    """Return what activations may take: as much as the weights, or `LIGHT_FROM`; of a card, half of what is free."""
    device = device_of(model)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return max(LIGHT_FROM, sum(parameter.nbytes for parameter in model.parameters()))


def backward_bytes(work: Workload) -> int:
    """Predict what a backward pass through one window holds."""
    head = work.arch.spec.head
    predicted = work.arch.widths[head.out] if head else 0
    activations = activation_bytes(work.arch, work.seqlen, work.after.num_layers)
    return activations + measuring_bytes(predicted, work.seqlen, work.itemsize, backward=True)


def light_backward_bytes(work: Workload) -> int:
    """Predict the same where layers are run again: two streams at every layer, one layer and the largest table."""
    head, d = work.arch.spec.head, work.arch.width
    streams = 2 * work.seqlen * d * 4 * work.target.original.num_layers
    table = max(table_bytes(work, d), default=0)
    measured = measuring_bytes(work.arch.widths[head.out] if head else 0, work.seqlen, work.itemsize, backward=True)
    layer = largest_layer_bytes(work) + activation_bytes(work.arch, work.seqlen, 1)
    return streams + max(table + measured, layer)


def no_predictions(selector: str, model_class: str) -> str:
    """Say that a selector needs predictions, and the model makes none."""
    return (
        f"selector={selector} needs a loss, and calibration data of a {model_class} has nothing to predict: choose "
        "another"
    )


def activation_bytes(arch: Architecture, tokens: int, num_layers: int) -> int:
    """Predict what a backward pass through so many layers keeps of their forward passes."""
    return tokens * 4 * num_layers * (10 * arch.width + 5 * arch.widths[Space.FFN])
