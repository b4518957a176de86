"""What is written loads elsewhere: no path of this machine, both spellings, and the same config in transformers 5."""

import json
import tomllib
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from contract.families import build
from neuromeld.archs import ARCHITECTURES
from neuromeld.checkpoint import load_config, load_model, save_checkpoint
from neuromeld.checkpoint.loading import auto_classes
from neuromeld.checkpoint.portable import NATIVE_NEEDS, with_older_config, with_older_tokenizer, without_places
from unit.checkpoint.tiny import build_native, build_stock, build_tokenizer, write

OLDER = {"torch_dtype", "rope_theta", "rope_scaling", "partial_rotary_factor", "rope_local_base_freq", "rotary_pct",
         "rotary_emb_base", "num_experts"}  # fmt: skip


@pytest.mark.parametrize("family", sorted(ARCHITECTURES))
def test_both_spellings_mean_the_same_in_transformers_5(family):
    config = build(family, dtype=torch.float32).config
    stated = json.loads(config.to_json_string(use_diff=False))
    both = with_older_config(stated)
    found = type(config).from_dict(dict(both)).to_dict()
    plain = type(config).from_dict(dict(stated)).to_dict()
    assert {key: value for key, value in found.items() if key not in OLDER} == {
        key: value for key, value in plain.items() if key not in OLDER
    }


def test_scaled_rotary_embeddings_in_the_older_spelling():
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}
    both = with_older_config({"rope_parameters": scaling | {"rope_theta": 5e3}, "dtype": "bfloat16"})
    assert both["rope_scaling"] == scaling
    assert both["rope_theta"] == 5e3
    assert both["torch_dtype"] == "bfloat16"
    layered = {"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    both = with_older_config({"rope_parameters": layered})
    assert (both["rope_theta"], both["rope_local_base_freq"], both["rope_scaling"]) == (1e6, 1e4, None)


def test_no_config_says_where_it_was_made(llama, tmp_path):
    source = write(llama, tmp_path / "source")
    model = load_model(source, dtype=None, device="cpu")
    tokenizer = type(build_tokenizer()).from_pretrained(source)
    tokenizer.init_kwargs["tokenizer_file"] = str(source / "tokenizer.json")
    folder = tmp_path / "out"
    folder.mkdir()
    save_checkpoint(model, tokenizer, folder, recipe_yaml=None)
    for path in folder.glob("*.json"):
        assert str(tmp_path) not in path.read_text(), path.name
    assert without_places({"a": [{"_name_or_path": "/home"}], "name_or_path": "/home"}) == {"a": [{}]}


def test_the_tokenizer_has_a_class_that_transformers_4_knows(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    older = with_older_tokenizer({"extra_special_tokens": ["<x>"], "tokenizer_class": "T5Tokenizer"})
    assert older == {"additional_special_tokens": ["<x>"], "tokenizer_class": "T5Tokenizer"}


def test_a_record_says_what_it_needs():
    tokenizer = build_tokenizer()
    assert auto_classes(build_stock("llama"), tokenizer)["requires"] == "transformers>=4.57"
    assert auto_classes(build_native("llama"), tokenizer)["requires"] == f"transformers>={NATIVE_NEEDS}"
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert f"transformers>={NATIVE_NEEDS}" in project["project"]["dependencies"]


def test_a_checkpoint_in_the_older_spelling_alone_is_read_alike(tmp_path):
    model = LlamaForCausalLM(LlamaConfig(**LLAMA_YARN))
    model.save_pretrained(tmp_path / "new")
    path = tmp_path / "new" / "config.json"
    both = with_older_config(json.loads(path.read_text()))
    path.write_text(json.dumps({key: value for key, value in both.items() if key not in ("rope_parameters", "dtype")}))
    assert load_config(tmp_path / "new").rope_parameters == model.config.rope_parameters


LLAMA_YARN = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 2.0,
        "rope_theta": 5e3,
        "original_max_position_embeddings": 1024,
    },
}
