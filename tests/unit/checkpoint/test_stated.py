"""What a folder states is not believed: one message, or the truth, and nothing fetched or allocated."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertModel

from neuromeld.checkpoint import load_config, load_model
from neuromeld.errors import CheckpointError, NeuromeldError, UnsupportedModelError
from neuromeld.planning.plan import make_plan, meta_model
from neuromeld.planning.recipe import parse_recipe
from unit.checkpoint.tiny import build_stock, logits_of, write


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("beside", [True, False])
def test_an_adapter_is_named_with_a_model_and_without(beside, folder):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "org/base"}')
    if not beside:
        (folder / "config.json").unlink()
    with pytest.raises(UnsupportedModelError, match=r"adapter_config\.json is a LORA adapter of org/base.*merge it"):
        load_config(folder)


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_adapter_is_an_adapter(content, folder):
    (folder / "adapter_config.json").write_text(content)
    with pytest.raises(UnsupportedModelError, match="is a peft adapter"):
        load_config(folder)


HUB = "kernels-community/flash-attn2"
FETCHING = {
    "attn_implementation": HUB,
    "_attn_implementation": HUB,
    "_attn_implementation_internal": HUB,
    "experts_implementation": HUB,
    "use_kernels": True,
    "auto_map": {"AutoConfig": "org/x--code.Config"},
    "transformers_weights": "../other.safetensors",
    "return_dict": False,
    "output_attentions": True,
}


@pytest.mark.parametrize("key", FETCHING)
def test_a_config_fetches_nothing_and_the_model_is_as_without(key, folder, llama):
    change_config(folder, **{key: FETCHING[key]})
    config = load_config(folder)
    assert HUB not in str(vars(config))
    model = load_model(folder, dtype=None, device="cpu")
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(logits_of(model), logits_of(llama), rtol=0, atol=0)


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_quantised_model_is_refused_by_its_config_alone(key, folder):
    with pytest.raises(UnsupportedModelError, match="is quantised"):
        load_config(change_config(folder, **{key: {"quant_method": "gptq"}}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("vocab_size", 10**12), ("num_hidden_layers", 10**6), ("hidden_size", 1e300), ("intermediate_size", -(10**10))],
)
def test_absurd_sizes_are_refused_before_anything_is_made(key, value, folder):
    with pytest.raises(CheckpointError, match=f"has {key}="):
        load_config(change_config(folder, **{key: value}))


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "vocab_size"])
def test_a_size_of_nothing_is_named(key, folder):
    with pytest.raises(UnsupportedModelError, match="has size 0"):
        make_plan(meta_model(load_config(change_config(folder, **{key: 0}))), RECIPE)


def test_a_model_far_larger_than_its_files_is_not_allocated(folder):
    change_config(folder, vocab_size=10**9, hidden_size=4 * 10**6, num_attention_heads=4)
    with pytest.raises(CheckpointError, match="the config is not theirs"):
        load_model(folder, dtype=None, device="cpu")


RECIPE = parse_recipe({"ffn": {"ratio": 0.5}, "heads": {"num_kv_heads": 1}, "drop_layers": {"count": 1}})
KEYS = [
    "num_attention_heads",
    "num_hidden_layers",
    "hidden_size",
    "vocab_size",
    "pad_token_id",
    "head_dim",
    "hidden_act",
    "dtype",
    "rope_parameters",
    "rope_scaling",
    "architectures",
    "model_type",
    "num_key_value_heads",
    "rms_norm_eps",
    "id2label",
    "layer_types",
    "tie_word_embeddings",
    "max_position_embeddings",
    "torch_dtype",
]
VALUES = strategies.one_of(
    strategies.sampled_from(
        [0, -1, 10**6, 10**12, 0.5, "nonesuch", "", None, True, [], {}, [1], {"rope_type": "x"}, "int8"]
    ),
    strategies.integers(-3, 50),
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=strategies.dictionaries(strategies.sampled_from(KEYS), VALUES, min_size=1, max_size=2))
def test_impossible_values_are_one_message(changes, folder):
    original = (folder / "config.json").read_text()
    try:
        made: object = make_plan(meta_model(load_config(change_config(folder, **changes))), RECIPE).parameters_after
    except NeuromeldError as error:
        made = str(error)
    finally:
        (folder / "config.json").write_text(original)
    assert made


@pytest.mark.parametrize("names", [["BertForMultipleChoice"], ["BertForMaskedLM"]])
def test_another_head_is_named(names, folder):
    with pytest.raises(UnsupportedModelError, match=f"names the class {names[0]}.*LlamaForCausalLM"):
        load_config(change_config(folder, architectures=names))


def test_a_value_head_is_named(folder):
    change_weights(folder, lambda weights: weights.update({"v_head.summary.weight": torch.zeros(1, 12)}))
    with pytest.raises(CheckpointError, match="A value head"):
        load_model(folder, dtype=None, device="cpu")


def test_a_head_with_weights_of_its_own_is_not_tied(folder, llama, tmp_path):
    """The config says tied, the file has another head: what transformers loads, the plan counts and we write."""
    change_weights(folder, lambda weights: weights.update({"lm_head.weight": torch.randn(37, 12)}))
    config = load_config(folder)
    assert not config.tie_word_embeddings
    model = load_model(folder, dtype=None, device="cpu")
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found == sum(parameter.numel() for parameter in meta_model(config).parameters())
    again = load_model(write(model, tmp_path / "again"), dtype=None, device="cpu")
    assert not again.config.tie_word_embeddings
    torch.testing.assert_close(logits_of(again), logits_of(model), rtol=0, atol=0)
    assert not torch.equal(logits_of(model), logits_of(llama))


def test_a_head_that_is_stored_as_the_embedding_is_tied(folder):
    change_weights(
        folder, lambda weights: weights.update({"lm_head.weight": weights["model.embed_tokens.weight"].clone()})
    )
    assert load_config(folder).tie_word_embeddings


def test_a_head_that_is_nowhere_is_refused(folder):
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not tied.*write true there"):
        load_config(change_config(folder, tie_word_embeddings=False))


def test_an_index_names_files_of_its_folder(tmp_path):
    folder = write(build_stock("llama"), tmp_path / "tiny", max_shard_size="4KB")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    for name in ("../other/model.safetensors", "/etc/passwd", "", 3, None, ["x"]):
        changed = index["weight_map"] | {"model.norm.weight": name}
        path.write_text(json.dumps(index | {"weight_map": changed}))
        with pytest.raises(CheckpointError, match="is damaged"):
            load_model(folder, dtype=None, device="cpu")


@pytest.mark.parametrize(("stripped", "named"), [(True, "BertModel"), (False, "BertForMaskedLM")])
def test_an_encoder_of_sentences_is_what_its_weights_are(stripped, named, tmp_path):
    """Such checkpoints often name the class that was pretrained, whose head they do not hold."""
    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    (BertModel if stripped else BertForMaskedLM)(config).save_pretrained(tmp_path)
    change_config(tmp_path, architectures=["BertForMaskedLM"])
    (tmp_path / "modules.json").write_text("[]")
    assert type(load_model(tmp_path, dtype=None, device="cpu")).__name__ == named
