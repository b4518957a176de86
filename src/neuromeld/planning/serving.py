"""The memory that a model takes while it is served: its weights, and the keys and values of what it has read."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from transformers import PretrainedConfig

from neuromeld.archs.sizes import Sizes
from neuromeld.errors import UserInputError
from neuromeld.registry import unknown_name

ServedDtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Serving:
    """Say how a model is served: `batch` texts of `context` tokens at a time, weights and cache in one format.

    dtype  None is that of the weights as they come
    """

    batch: int = 1
    context: int = 2048
    dtype: ServedDtype | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in get_args(ServedDtype):
            raise UserInputError(unknown_name("served dtype", self.dtype, list(get_args(ServedDtype))))
        if self.batch < 1 or self.context < 1:
            raise UserInputError(f"batch={self.batch} and context={self.context} must be at least 1")

    def num_bytes(
        self, parameters: int, before: Sizes, after: Sizes, config: PretrainedConfig, own: torch.dtype
    ) -> int:
        """Return the bytes of weights and cache of a model that had the sizes `before` with this config.

        No layer is taken to forget what lies outside of a sliding window, and where a config does not say how many
        heads have keys and values of their own, all have.
        """
        text = config.get_text_config(decoder=True)
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        in_layer = [2 * heads * width * groups // before.num_kv_heads[0] for groups in after.num_kv_heads]
        dtype = own if self.dtype is None else getattr(torch, self.dtype)
        return int((parameters + self.batch * self.context * sum(in_layer)) * dtype.itemsize)
