"""Write a Llama whose layers differ in size as a `nemotron-nas` folder, which vLLM and, in steps, others read."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from neuromeld.checkpoint.export.gguf_families import rope_of
from neuromeld.checkpoint.export.shape import Shape, shape_of
from neuromeld.checkpoint.export.weights import PlainWeights
from neuromeld.checkpoint.load import weight_files
from neuromeld.checkpoint.portable import with_older_config, without_places
from neuromeld.errors import CheckpointError
from neuromeld.model.native import nemotron_nas

CLASS = "DeciLMForCausalLM"
MULT_STEP = 256
"""What readers of `ffn_mult` round a width up to."""

FAMILIES = ("llama", "mistral", "qwen2")
"""Families whose layers are Llama's, but for biases."""


def block_config_reasons(shape: Shape, config: Any) -> list[str]:
    """Return why such a folder cannot hold a model of this shape; none where it can."""
    if shape.model_type not in FAMILIES:
        return [f"layers of several sizes are served for {', '.join(FAMILIES)}, and this is {shape.model_type}"]
    reasons = [f"it has {what}, which only neuromeld's code runs" for what in shape.own_code]
    if shape.ragged_heads:
        reasons.append("its layers differ in their number of heads, and vLLM has one number for all")
    if config.hidden_act not in ("silu", "swish"):
        reasons.append(f"its activation is {config.hidden_act}, and vLLM's {CLASS} computes silu")
    if shape.hidden % config.num_attention_heads:
        reasons.append(f"a width of {shape.hidden} is no multiple of its {config.num_attention_heads} heads")
    if getattr(config, "sliding_window", None):
        reasons.append("its attention has a sliding window, which such a config does not say")
    return reasons


@dataclass(frozen=True)
class BlockConfigs:
    """Hold the config and the weights of such a folder.

    by_mult   widths are written as `ffn_mult`, in steps of 256, for engines that read nothing else
    """

    model: PreTrainedModel
    weights: PlainWeights
    by_mult: bool = False

    @property
    def shape(self) -> Shape:
        """The shape of the checkpoint."""
        return shape_of(self.model.config)

    def config(self) -> dict[str, Any]:
        """Return the content of `config.json`."""
        config, shape = self.model.config, self.shape
        group = shape.num_heads[0] // shape.num_kv_heads[0]
        stated = {key: value for key, value in config.to_dict().items() if key in KEPT}
        found = nemotron_nas.NemotronNasConfig(
            **stated,
            hidden_size=shape.hidden,
            intermediate_size=max(self.weights.width(neurons) for neurons in shape.ffn),
            num_hidden_layers=len(shape.ffn),
            attention_bias=self._attention_bias,
            rope_parameters=rope_of(config),
            block_configs=[
                {"attention": {"no_op": False, "n_heads_in_group": group}, "ffn": self._ffn(neurons)}
                for neurons in shape.ffn
            ],
        )
        module, name = Path(nemotron_nas.__file__).stem, nemotron_nas.NemotronNasConfig.__name__
        told = with_older_config(without_places(found.to_dict()))
        return told | {"architectures": [CLASS], "auto_map": {"AutoConfig": f"{module}.{name}"}}

    def _ffn(self, neurons: int) -> dict[str, Any]:
        if neurons == 0:
            return {"no_op": True}
        width = self.weights.width(neurons)
        if self.by_mult:
            return {"no_op": False, "ffn_mult": 3 * width / (2 * self.shape.hidden)}
        return {"no_op": False, "intermediate_size": width}

    @property
    def _attention_bias(self) -> bool:
        return any(name.endswith("q_proj.bias") for name in self.weights.names)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights; a bias that attention's output lacks beside those of q, k and v is zero."""
        gone = tuple(
            f"model.layers.{layer}.{part}."
            for layer, neurons in enumerate(self.shape.ffn)
            if neurons == 0
            for part in ("mlp", "post_attention_layernorm")
        )
        found = {name: tensor.contiguous() for name, tensor in self.weights if not name.startswith(gone)}
        if self._attention_bias:
            for layer in range(len(self.shape.ffn)):
                zero = torch.zeros(self.shape.hidden, dtype=self.model.dtype)
                found.setdefault(f"model.layers.{layer}.self_attn.o_proj.bias", zero)
        return found


KEPT = frozenset(
    {
        *("vocab_size", "num_attention_heads", "num_key_value_heads", "hidden_act", "max_position_embeddings"),
        *("initializer_range", "rms_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings"),
        *("mlp_bias", "head_dim", "dtype"),
    }
)
"""What a config of this kind says as the family's does."""


def write_block_configs(content: BlockConfigs, folder: Path, max_shard_size: int | str = "5GB") -> None:
    """Write config, its class, and weights."""
    shutil.copyfile(nemotron_nas.__file__, folder / Path(nemotron_nas.__file__).name)
    text = json.dumps(content.config(), indent=2, sort_keys=True)
    (folder / "config.json").write_text(f"{text}\n", encoding="utf-8")
    tensors = content.tensors()
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)
    for file, names in split.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def compare_block_configs(content: BlockConfigs, folder: Path) -> None:
    """Read the weights again: each is what the model has, and as large as the config says.

    Raises `CheckpointError` for the first that is not.
    """
    expected = content.tensors()
    stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for path in weight_files(folder, allow_pickle=False):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if not torch.equal(file.get_tensor(name), expected.pop(name)):
                    raise CheckpointError(f"{name} in {path} is not what the model has")
    if expected:
        raise CheckpointError(f"{folder} lacks {', '.join(sorted(expected))}")
    for layer, (block, neurons) in enumerate(zip(stated["block_configs"], content.shape.ffn, strict=True)):
        if neurons and stated_width(block["ffn"], stated["hidden_size"]) != content.weights.width(neurons):
            raise CheckpointError(f"the config in {folder} does not say the width of layer {layer}")


def stated_width(ffn: dict[str, Any], hidden: int) -> int:
    """Return the width that a reader takes from the entry of an FFN, as vLLM and llama.cpp do."""
    if "ffn_mult" not in ffn:
        return int(ffn["intermediate_size"])
    return -(-int(2 * ffn["ffn_mult"] * hidden / 3) // MULT_STEP) * MULT_STEP
