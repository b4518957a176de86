"""Baselines that remove instead of merging: whole layers, or their FF sublayers alone."""

from collections.abc import Iterable

import torch
from torch import nn

from neuromeld.archs.resolve import Architecture
from neuromeld.errors import UserInputError
from neuromeld.model.surgery import keep_layers, read_bias, read_matrix, write_bias, write_matrix

DELETED_WIDTH = {"linear": 0, "conv1d": 1}
"""Hidden units that are left of an FFN that is deleted, by the layout of its output matrix."""


def drop_layers(model: nn.Module, arch: Architecture, layers: Iterable[int]) -> Architecture:
    """Remove whole layers in place, the same of every stack; returns the architecture of what is left.

    Raises `UserInputError` for layers that do not exist, and where none would be left.
    """
    dropped = _existing(min(arch.depths), layers)
    for stack, depth in zip(arch.spec.stacks, arch.depths, strict=True):
        kept = [layer for layer in range(depth) if layer not in dropped]
        if not kept:
            raise UserInputError(f"dropping all {depth} layers leaves none: keep at least one")
        keep_layers(model, stack, kept, arch.spec.layer_lists)
    return arch.without(len(dropped))


@torch.no_grad()
def remove_ffns(model: nn.Module, arch: Architecture, layers: Iterable[int]) -> None:
    """Narrow the FF sublayers of `layers` to nothing, in place: what remains of each is the bias of its output.

    What stays is `DELETED_WIDTH`: an `nn.Linear` runs at width 0; a Conv1D does not, so one unit stays, all zero.
    Raises `UserInputError` for layers that do not exist.
    """
    for layer in sorted(_existing(arch.num_layers, layers)):
        consumer = arch.consumer(layer, "ffn")
        width = DELETED_WIDTH[consumer.layout]
        for weight in arch.producers(layer, "ffn"):
            write_matrix(model, weight, torch.zeros_like(read_matrix(model, weight)[:, :width]))
            bias = read_bias(model, weight)
            if bias is not None:
                write_bias(model, weight, torch.zeros_like(bias[:width]))
        write_matrix(model, consumer, torch.zeros_like(read_matrix(model, consumer)[:width]))


def _existing(num_layers: int, layers: Iterable[int]) -> set[int]:
    chosen = set(layers)
    missing = sorted(layer for layer in chosen if not 0 <= layer < num_layers)
    if missing:
        raise UserInputError(
            f"layers {', '.join(map(str, missing))} do not exist: those of this model are 0 to {num_layers - 1}"
        )
    return chosen
