"""Rewrite the two sides of a cut: what producers write and what consumers read.

LayerNorm's bias needs care.  The narrow norm's output has no component along the mean direction `1/sqrt(k)`, so a
constant can ride there: the narrow norm's bias is set to 1 everywhere, and the consumer's matrix carries the product of
the original bias with its weight in that direction.  So consumers without a bias of their own (output heads) need none.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuromeld.archs.spec import Norm, Weight
from neuromeld.model.surgery import read_bias, read_matrix, read_norm, write_bias, write_matrix, write_norm
from neuromeld.shapes import ACCUMULATE


def consume(
    read: Float[Tensor, "k d"],
    gain: Float[Tensor, "d"],
    bias: Float[Tensor, "d"] | None,
    matrix: Float[Tensor, "d out"],
) -> Float[Tensor, "k out"]:
    """Return the narrow matrix `W'` with `norm(s) W' = (norm(x) * gain + bias) W`, where `norm(s) read = norm(x)`."""
    matrix = matrix.to(ACCUMULATE)
    narrow = (read * gain.to(ACCUMULATE)) @ matrix
    if bias is None:
        return narrow
    return narrow - narrow.mean(0, keepdim=True) + (bias.to(ACCUMULATE) @ matrix) / read.shape[0]


ROWS = 8192
"""How much of a large matrix, such as that of a vocabulary, is worked on at once."""


def narrow_producer(model: nn.Module, weight: Weight, write: Float[Tensor, "d k"]) -> None:
    """`W <- W write`, `b <- b write`."""
    matrix = read_matrix(model, weight)
    write_matrix(model, weight, torch.cat([(rows.to(ACCUMULATE) @ write).to(rows) for rows in matrix.split(ROWS)]))
    bias = read_bias(model, weight)
    if bias is not None:
        write_bias(model, weight, bias.to(ACCUMULATE) @ write)


@dataclass(frozen=True)
class WideConsumer:
    """A consumer at full width: its matrix, and gain and bias of the norm that it reads the stream through."""

    weight: Weight
    matrix: Float[Tensor, "... d out"]
    gain: Float[Tensor, "d"]
    bias: Float[Tensor, "d"] | None


def wide_consumer(model: nn.Module, weight: Weight) -> WideConsumer:
    """Return a consumer as it is; nothing is copied, since parameters are replaced and never written into."""
    assert weight.input_norm is not None
    return WideConsumer(weight, read_matrix(model, weight), *read_norm(model, weight.input_norm))


def narrow_consumer(model: nn.Module, wide: WideConsumer, read: Float[Tensor, "k d"]) -> None:
    """Rewrite a consumer of `model` from what it was at full width."""
    weight, parts = wide.weight, wide.matrix.split(ROWS, dim=-1)
    narrow = [consume(read, wide.gain, wide.bias, part).to(part).mT for part in parts]
    write_matrix(model, weight, torch.cat(narrow, dim=-2).mT)  # laid out as a linear layer stores it


def narrow_norm(model: nn.Module, norm: Norm, k: int) -> None:
    """Make a norm of width `k`, without a gain: its consumers hold it now."""
    gain, bias = read_norm(model, norm.path)
    ones = torch.ones(k, dtype=gain.dtype, device=gain.device)
    write_norm(model, norm.path, ones, None if bias is None else ones.clone())
