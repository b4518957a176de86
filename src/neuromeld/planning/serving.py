"""The memory that a model takes while it is served: its weights, and the keys and values of what it has read."""

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.sizes import Sizes, sizes_of, space_size
from neuromeld.archs.spec import Space
from neuromeld.checkpoint.export.quantised import TYPES, bytes_per_weight
from neuromeld.errors import UserInputError
from neuromeld.registry import unknown_name

SERVED_DTYPES = ("float32", "bfloat16", "float16", *TYPES)
"""Formats that weights are served in; those of llama.cpp have the cache in float16."""

RAISED = 0.5
"""The share of the layers whose matrices behind values and behind hidden neurons a mixed type of llama.cpp raises."""


@dataclass(frozen=True)
class Serving:
    """Say how a model is served: `batch` texts of `context` tokens at a time.

    dtype  of the weights, one of `SERVED_DTYPES`, and of the cache; None is that of the weights as they come
    """

    batch: int = 1
    context: int = 2048
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in SERVED_DTYPES:
            raise UserInputError(unknown_name("served dtype", self.dtype, list(SERVED_DTYPES)))
        if self.batch < 1 or self.context < 1:
            raise UserInputError(f"batch={self.batch} and context={self.context} must be at least 1")

    def num_bytes(
        self, parameters: int, arch: Architecture, after: Sizes, config: PretrainedConfig, own: torch.dtype
    ) -> int:
        """Return the bytes of weights and cache of a model of the sizes `after`.

        config, own   of the model that it was made of, and its dtype; `arch` is of that model, too

        No layer is taken to forget what lies outside of a sliding window, and where a config does not say how many
        heads have keys and values of their own, all have.
        """
        text, before = config.get_text_config(decoder=True), sizes_of(arch, config)
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        in_layer = [2 * heads * width * groups // before.num_kv_heads[0] for groups in after.num_kv_heads]
        quantised = self.dtype in TYPES
        dtype = own if self.dtype is None else torch.float16 if quantised else getattr(torch, self.dtype)
        weights = parameters * (_mean_bytes(str(self.dtype), arch, before, after) if quantised else dtype.itemsize)
        return int(weights + self.batch * self.context * sum(in_layer) * dtype.itemsize)


def _mean_bytes(kind: str, arch: Architecture, before: Sizes, after: Sizes) -> float:
    """Return the mean bytes of a weight of all matrices in one of llama.cpp's types."""
    total, size = 0.0, 0
    for layer in range(after.num_layers):
        for weight in arch.layer_weights(layer):
            row, rows = (space_size(arch, before, after, layer, space) for space in (weight.in_, weight.out))
            raised = RAISED if weight.in_ == Space.FFN or weight.out in (Space.KV, Space.QKV) else 0.0
            entries = weight.repeats * row * rows
            total, size = total + entries * bytes_per_weight(kind, row, raised=raised), size + entries
    head = None if arch.tied else arch.spec.head
    for weight in (*arch.spec.embeddings, *([head] if head else [])):
        ends = [space_size(arch, before, after, 0, space) for space in (weight.in_, weight.out)]
        entries, output = ends[0] * ends[1], weight == head or (arch.tied and weight.in_ == Space.VOCAB)
        total, size = total + entries * bytes_per_weight(kind, after.hidden, raised=float(output)), size + entries
    return total / size
