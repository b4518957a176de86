"""Predicted parameters against those of the model that was made."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from neuromeld import compress_model, make_plan, parse_recipe

BATCHES = [{"input_ids": ids} for ids in torch.arange(60).remainder(13).view(4, 3, 5)]


@st.composite
def llamas(draw: st.DrawFn) -> LlamaConfig:
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return LlamaConfig(
        vocab_size=13,
        hidden_size=groups * per_group * draw(st.integers(1 if groups * per_group > 1 else 2, 3)),
        intermediate_size=draw(st.integers(1, 19)),
        num_hidden_layers=draw(st.integers(1, 4)),
        num_attention_heads=groups * per_group,
        num_key_value_heads=groups,
        head_dim=draw(st.sampled_from([2, 4])),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
    )


@st.composite
def stages(draw: st.DrawFn, config: LlamaConfig) -> dict[str, object]:
    """A recipe of stages that this model can take, each there or not."""
    chosen: dict[str, object] = {}
    layers = config.num_hidden_layers

    def sizes(most: int) -> st.SearchStrategy[list[int]]:
        return st.lists(st.integers(1, most), min_size=layers, max_size=layers)

    if layers > 1 and draw(st.booleans()):
        dropped = draw(st.integers(1, layers - 1))
        first = draw(st.integers(0, layers - dropped))
        chosen["drop_layers"] = {"layers": list(range(first, first + dropped))}
        layers -= dropped
    if draw(st.booleans()):
        chosen["heads"] = {"num_kv_heads": draw(sizes(config.num_key_value_heads)), "compensate": "none"}
    merged = layers > 1 and draw(st.booleans())
    if draw(st.booleans()):
        most = config.intermediate_size
        chosen["ffn"] = {"size": draw(st.integers(1, most) if merged else sizes(most)), "compensate": "none"}
    if draw(st.booleans()):
        basis = "shared" if merged else draw(st.sampled_from(["shared", "layer", "run:2"]))
        chosen["width"] = {"hidden_size": draw(st.integers(2, config.hidden_size)), "basis": basis, "refit": False}
    if merged:
        first = draw(st.integers(0, layers - 2))
        window = [first, draw(st.integers(first + 1, layers - 1))]
        chosen["share_ffns"] = {"window": window, "align": "none", "compensate": "none"}
    return chosen or {"ffn": {"ratio": 1}}


def count(model: LlamaForCausalLM) -> int:
    return sum(parameter.numel() for parameter in {id(p): p for p in model.parameters()}.values())


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_parameters_are_those_of_the_model_that_was_made(data):
    config = data.draw(llamas())
    chosen = data.draw(stages(config))
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    plan = make_plan(model, parse_recipe(chosen | {"output": "native"}))
    assert plan.parameters_before == count(model)
    compress_model(model, plan, BATCHES)
    assert plan.parameters_after == count(model)
