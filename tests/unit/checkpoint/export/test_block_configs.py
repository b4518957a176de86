"""Folders of the type nemotron-nas: a config that says each layer's width, and Llama's weights."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from neuromeld.checkpoint.export.block_configs import block_config_reasons
from neuromeld.checkpoint.export.form import Content
from neuromeld.checkpoint.export.forms import FORMS
from neuromeld.checkpoint.export.shape import shape_of
from neuromeld.errors import CheckpointError
from unit.checkpoint.export.models import ragged, tokenizer


def written(model, folder, form="vllm"):
    content = Content(model, tokenizer())
    assert FORMS[form].reasons(shape_of(model.config), model.config) == []
    FORMS[form].write(content, folder)
    FORMS[form].compare(content, folder)
    return load_file(folder / "model.safetensors")


def test_the_config_says_every_width_and_loads_with_the_code_beside_it(tmp_path):
    weights = written(ragged("llama"), tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert [block.ffn.intermediate_size for block in config.block_configs] == [96, 40, 8, 72]
    assert {block.attention.n_heads_in_group for block in config.block_configs} == {2}
    assert not any(hasattr(block.ffn, "ffn_mult") for block in config.block_configs)
    assert config.architectures == ["DeciLMForCausalLM"]
    assert (config.head_dim, config.tie_word_embeddings, config.attention_bias) == (32, True, False)
    shapes = [tuple(weights[f"model.layers.{layer}.mlp.down_proj.weight"].shape) for layer in range(4)]
    assert shapes == [(128, 96), (128, 40), (128, 8), (128, 72)]
    assert "lm_head.weight" not in weights


def test_a_removed_ffn_is_not_there_and_neither_is_its_norm(tmp_path):
    weights = written(ragged("llama", (96, 0, 8, 72)), tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text())
    assert stated["block_configs"][1]["ffn"] == {"no_op": True}
    assert not [name for name in weights if name.startswith("model.layers.1.") and "self_attn" not in name][1:]


def test_qwen2_gets_a_bias_of_zero_where_llama_has_one(tmp_path):
    weights = written(ragged("qwen2"), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["attention_bias"] is True
    assert torch.equal(weights["model.layers.3.self_attn.o_proj.bias"], torch.zeros(128))


def test_multiples_give_widths_in_steps_of_256(tmp_path):
    model = ragged("llama", (600, 256, 8, 512), intermediate_size=640)
    weights = written(model, tmp_path, "mlx")
    blocks = json.loads((tmp_path / "config.json").read_text())["block_configs"]
    assert [block["ffn"]["ffn_mult"] * 2 * 128 / 3 for block in blocks] == [768, 256, 256, 512]
    assert weights["model.layers.0.mlp.gate_proj.weight"].shape == (768, 128)


def test_weights_that_differ_are_told(tmp_path):
    model = ragged("llama")
    weights = written(model, tmp_path)
    weights["model.norm.weight"][3] += 1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="model.norm.weight"):
        FORMS["vllm"].compare(Content(model, tokenizer()), tmp_path)


def test_other_layers_than_llamas_are_refused():
    config = ragged("qwen3").config
    assert "this is qwen3" in block_config_reasons(shape_of(config), config)[0]
