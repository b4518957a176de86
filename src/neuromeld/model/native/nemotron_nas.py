"""The config of a Llama whose layers differ in size, as vLLM reads it (`nemotron-nas`); no code runs in the model.

This file is also copied into every folder that is written for vLLM, so it imports nothing of neuromeld.
"""

from typing import Any

from transformers import LlamaConfig

MODEL_TYPE = "nemotron-nas"


class NemotronNasConfig(LlamaConfig):
    """A `LlamaConfig` with `block_configs`: what attention and FFN of each layer are.

    `block_configs[i].ffn` has `no_op` and either `intermediate_size` or, in steps of 256 neurons, `ffn_mult`;
    `block_configs[i].attention` has `no_op` and `n_heads_in_group`, the query heads of a key-value head.
    """

    model_type = MODEL_TYPE

    def __init__(self, block_configs: Any = (), **values: Any) -> None:
        super().__init__(**values)
        self.block_configs = [_Block(block) for block in block_configs]


class _Block(dict[str, Any]):
    """A dictionary, so that a config of it can be written, whose entries can be asked for as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            found = self[name]
        except KeyError:
            raise AttributeError(name) from None
        return _Block(found) if isinstance(found, dict) else found
