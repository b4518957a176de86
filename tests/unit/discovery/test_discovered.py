"""Models that no family describes: found, proved, made smaller, saved and loaded again; the rest is refused."""

from dataclasses import replace

import pytest
import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
)

from contract.families import FAMILIES, GATED
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.archs import ARCHITECTURES
from neuromeld.archs.classes import stock_class
from neuromeld.archs.spec import Space
from neuromeld.checkpoint import load_model
from neuromeld.discovery.axes import built
from neuromeld.discovery.groups import groups_of
from neuromeld.discovery.lookup import discover, example_inputs, randomise
from neuromeld.discovery.proof import Unproved, prove
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.modalities import inputs_of
from neuromeld.model.outputs import outputs
from neuromeld.planning.plan import architecture_of, meta_model

TOKENS = {"vocab_size": 160, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = TOKENS | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
MIXTURE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
}
FULL = {"layer_types": ["full_attention"] * 3}
PAIR = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_layers": 3, "decoder_layers": 3}
PAIR |= TOKENS | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_start_token_id": 2}
PAIR |= {"architectures": ["PegasusForConditionalGeneration"]}

CONFIGS = {
    "phi": SIZES,
    "glm": SIZES | {"num_key_value_heads": 2, "head_dim": 8},
    "cohere": SIZES | {"num_key_value_heads": 2},
    "qwen2_moe": SIZES | MIXTURE | FULL | {"num_key_value_heads": 4},
    "modernbert": SIZES | {"cls_token_id": 1, "sep_token_id": 2},
    "pegasus": PAIR,
    "longt5": {"vocab_size": 160, "d_model": 32, "d_ff": 64, "num_layers": 3, "num_heads": 4, "d_kv": 8},
}
"""A parallel plain FFN, a fused gated one, a head that is scaled, experts beside shared ones, an encoder, and two
encoder-decoders, of which one has the relative positions of all layers in the first."""

AUTO = {
    "modernbert": AutoModelForMaskedLM,
    "pegasus": AutoModelForSeq2SeqLM,
    "longt5": AutoModelForSeq2SeqLM,
}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NEUROMELD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def build(model_type, **changes):
    config = CONFIG_MAPPING[model_type](**(changes or CONFIGS.get(model_type, SIZES)))
    torch.manual_seed(0)
    model = stock_class(config)._from_config(config).eval()
    randomise(model)
    return model


def batches(model, count=4):
    found = [dict(example_inputs(model.config, type(model))) for _ in range(count)]
    return [batch | {"labels": batch["input_ids"]} for batch in found]


def plan_for(model, **stages):
    return make_plan(model, parse_recipe(stages | {"calibration": {"tokens": 2048, "seqlen": 16}}))


@torch.no_grad()
def logits(model):
    torch.manual_seed(1)
    return outputs(model, example_inputs(model.config, type(model)))


def assert_same(one, other):
    assert (logits(one) - logits(other)).abs().max() < 1e-5 * logits(other).abs().max()


@pytest.mark.parametrize("model_type", CONFIGS)
@pytest.mark.parametrize(
    "stages",
    [{"ffn": {"ratio": 0.5}}, {"drop_layers": {"layers": [1]}}, {"ffn": {"size": [16, 24, 32]}}],
    ids=["ffn", "drop_layers", "by layer"],
)
def test_what_is_proved_works_and_loads_again(model_type, stages, tmp_path):
    model = build(model_type)
    if isinstance(stages.get("ffn", {}).get("size"), list):
        stages = {"ffn": {"size": [16, 24, 32] * len(architecture_of(model).depths)}}
    plan = plan_for(model, **stages)
    assert plan.format == ("native" if isinstance(stages.get("ffn", {}).get("size"), list) else "stock")
    smaller = compress_model(model, plan, batches(model)).model
    smaller.save_pretrained(tmp_path)
    again = AUTO.get(model_type, AutoModelForCausalLM).from_pretrained(tmp_path).eval()
    assert_same(again, smaller)


@pytest.mark.parametrize(
    ("model_type", "name", "labels"),
    [
        ("llama", "LlamaForSequenceClassification", 1),
        ("modernbert", "ModernBertForTokenClassification", 3),
        ("bert", "BertForQuestionAnswering", 2),
        ("phi", "PhiModel", 2),
    ],
)
def test_a_head_comes_along(model_type, name, labels, tmp_path):
    """A reward model, a classifier of tokens, one that finds spans, and an encoder without a head."""
    model = build(model_type, **SIZES, architectures=[name], num_labels=labels)
    assert type(model).__name__ == name
    assert inputs_of(model.config) == "sentences"
    plan = plan_for(model, ffn={"ratio": 0.5}, drop_layers={"layers": [1]})
    smaller = compress_model(model, plan, batches(model)).model
    smaller.save_pretrained(tmp_path)
    again = load_model(tmp_path, dtype=None, device="cpu")
    assert type(again).__name__ == name
    assert_same(again, smaller)


def test_the_decoder_masks_its_own_padding():
    found = architecture_of(build("pegasus"))
    assert [stack.mask for stack in found.spec.stacks] == ["attention_mask", "decoder_attention_mask"]


def _unordered(mixture, config):
    if mixture is None:
        return None
    found = vars(mixture) | {"key": config.attribute_map.get(mixture.key, mixture.key)}
    return {name: set(value) if isinstance(value, tuple) else value for name, value in found.items()}


DESCRIBED = ["llama-tied", "gpt2", "falcon", "mixtral", "vit", "bert", "t5", "bart"]


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in DESCRIBED else pytest.mark.product)
        for family, config in FAMILIES.items()
        if ARCHITECTURES[config().model_type].inputs != "speech"
    ],
)
def test_discovery_agrees_with_the_description(family):
    model = meta_model(FAMILIES[family]())
    described = architecture_of(model)
    found = next(iter(discover(model).proved))
    for stack, proved in zip(described.spec.stacks, found.stacks, strict=True):
        assert proved.path == stack.layers
        assert proved.mask == (stack.mask or "attention_mask")
        assert proved.count_key == model.config.attribute_map.get(stack.count_key, stack.count_key)
        of_ffn = [weight for weight in stack.weights if Space.FFN in (weight.in_, weight.out)]
        assert {*proved.weights} == {replace(weight, input_norm=None) for weight in of_ffn}
        assert _unordered(proved.mixture, model.config) == _unordered(stack.mixture, model.config)
    assert found.ffn_keys == described.spec.config_keys(Space.FFN)


def test_the_language_model_beside_an_image_tower_is_narrowed(tmp_path):
    text = SIZES | {"model_type": "llama", "num_key_value_heads": 2}
    tower = {"model_type": "clip_vision_model", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 4, "image_size": 16, "patch_size": 4, "projection_dim": 24}
    model = build("llava", text_config=text, vision_config=tower, image_token_id=3)
    towers = [parameter for name, parameter in model.named_parameters() if "vision_tower" in name]
    plan = plan_for(model, ffn={"ratio": 0.5}, drop_layers={"layers": [1]})
    smaller = compress_model(model, plan, batches(model)).model
    assert smaller.config.text_config.intermediate_size == 32
    assert all(new is old for new, old in zip(smaller.model.vision_tower.parameters(), towers, strict=True))
    smaller.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert_same(again, smaller)


def test_units_that_a_norm_runs_over_are_refused():
    with pytest.raises(UnsupportedModelError, match="nothing was proved.*in another order: they are not on their own"):
        plan_for(meta_model(CONFIG_MAPPING["bitnet"](**SIZES)), ffn={"ratio": 0.5})


def test_what_is_not_known_is_refused_by_name():
    model = build("phi")
    with pytest.raises(UnsupportedModelError, match="stream cannot be narrowed.*discovered.*Stages that work: .*ffn"):
        plan_for(model, width={"hidden_ratio": 0.5})
    with pytest.raises(UnsupportedModelError, match="discovered, and nothing about its attention"):
        plan_for(model, heads={"num_kv_heads": 1})


def test_channels_of_attention_are_no_hidden_units():
    config = CONFIG_MAPPING["llama"](**SIZES)
    model = build("llama")
    (ffn,) = groups_of(built(type(model), config))
    path, (part,) = "self_attn.{}_proj", ffn.parts
    claimed = (replace(part.weights[0], path=path.format("v")), replace(part.weights[-1], path=path.format("o")))
    with pytest.raises(Unproved, match="in another order"):
        prove(model, replace(ffn, parts=(replace(part, weights=claimed),)), example_inputs(config, type(model)))


def test_layers_that_do_not_return_the_stream_are_refused():
    config = CONFIG_MAPPING["openai-gpt"](vocab_size=160, n_embd=32, n_layer=3, n_head=4)
    with pytest.raises(UnsupportedModelError, match="do not return it first"):
        plan_for(meta_model(config), ffn={"ratio": 0.5})


def test_a_layer_that_is_told_by_its_number_what_to_do_is_not_dropped():
    found = discover(meta_model(CONFIG_MAPPING["diffllama"](**SIZES)))
    assert "told by its number" in found.proved[0].refusals["drop_layers"]


def test_a_key_of_more_than_a_width_leaves_the_native_format():
    mixture = {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1}
    latent = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    switches = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 0, "num_key_value_heads": 6}
    config = CONFIG_MAPPING["deepseek_v3"](**GATED | mixture | latent | switches)
    plan = plan_for(meta_model(config), ffn={"size": 16})
    assert plan.format == "native"


def test_a_key_that_is_rounded_states_the_width_once_the_rounding_is_off(tmp_path):
    """LFM2 takes two thirds of its key, rounded up to a multiple of another, which moves the width as well."""
    model = build("lfm2", **SIZES | {"num_key_value_heads": 2, "block_multiple_of": 64, "intermediate_size": 192})
    found = discover(model).proved[0]
    assert (found.ffn_keys, found.switches_off) == (("intermediate_size",), ("block_auto_adjust_ff_dim",))
    plan = plan_for(model, ffn={"size": 40})
    assert (plan.before.ffn[0], plan.format) == (128, "stock")
    smaller = compress_model(model, plan, batches(model)).model
    smaller.save_pretrained(tmp_path)
    assert_same(AutoModelForCausalLM.from_pretrained(tmp_path).eval(), smaller)


def mixed():
    """A model whose first layer is dense and whose others have experts."""
    shape = {"num_hidden_layers": 4, "first_k_dense_replace": 1, "n_routed_experts": 8, "moe_intermediate_size": 64}
    config = transformers.Glm4MoeConfig(
        **SIZES | shape, num_key_value_heads=2, num_experts_per_tok=2, n_shared_experts=1
    )
    torch.manual_seed(0)
    model = transformers.Glm4MoeForCausalLM(config).eval()
    randomise(model)
    return model


def test_of_unlike_layers_some_can_be_dropped_by_name(tmp_path):
    model = mixed()
    with pytest.raises(UnsupportedModelError, match="not all of one shape.*name"):
        plan_for(model, drop_layers={"count": 1})
    with pytest.raises(UnsupportedModelError, match="states by the number of a layer.*choose others"):
        plan_for(model, drop_layers={"layers": [0]})
    with pytest.raises(UserInputError, match="all layers that have an FFN of the kind"):
        plan_for(model, drop_layers={"layers": [1, 2, 3]})
    plan = plan_for(model, drop_layers={"layers": [2]}, ffn={"ratio": 0.5})
    assert plan.after.ffn == (0, 32, 32)
    smaller = compress_model(model, plan, batches(model)).model
    smaller.save_pretrained(tmp_path)
    assert_same(AutoModelForCausalLM.from_pretrained(tmp_path).eval(), smaller)


def test_the_layer_without_the_ffn_is_dropped():
    """What is predicted for each layer goes by the numbers of the layers that are left."""
    switches = {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "num_key_value_heads": 4}
    mixture = {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1}
    latent = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    model = meta_model(CONFIG_MAPPING["axk1"](**SIZES | mixture | latent | switches))
    plan = plan_for(model, drop_layers={"layers": [0]}, ffn={"ratio": 0.5})
    assert (plan.before.ffn, plan.after.ffn) == ((0, 32, 32), (16, 16))
    alone = plan_for(model, ffn={"ratio": 0.5})
    assert plan.work.operations.sums == alone.work.operations.sums
    assert plan.work.operations.factors == alone.work.operations.factors


def test_layers_without_the_ffn_are_left_alone(tmp_path):
    model = mixed()
    dense = model.model.layers[0].mlp.gate_proj.weight
    plan = plan_for(model, ffn={"ratio": 0.5})
    assert plan.before.ffn == (0, 64, 64, 64)
    smaller = compress_model(model, plan, batches(model)).model
    assert smaller.model.layers[0].mlp.gate_proj.weight is dense
    smaller.save_pretrained(tmp_path)
    assert_same(AutoModelForCausalLM.from_pretrained(tmp_path).eval(), smaller)
