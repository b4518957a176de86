"""Families at sizes that nobody chose: every stage that works, at once, and back from disk."""

import tempfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from contract.families import VOCABULARY, batches_for, randomise, tokens
from contract.test_contract import SAME_AFTER_SAVING, logits, stages
from neuromeld import compress_model, make_plan
from neuromeld.archs import ARCHITECTURES
from neuromeld.archs.classes import stock_class
from neuromeld.archs.spec import Space
from neuromeld.model.native.classes import auto_class
from neuromeld.planning.plan import architecture_of

OWN_KEYS = {
    "bloom": {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
    "falcon": {"intermediate_size": "ffn_hidden_size", "attention_bias": "bias", "head_dim": ""},
    "gpt2": {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
    },
    "opt": {"intermediate_size": "ffn_dim"},
}
"""What the configs of these families call the sizes; nothing for what they work out themselves."""


@st.composite
def sizes(draw) -> dict[str, object]:
    groups = draw(st.integers(1, 3))
    heads = groups * draw(st.integers(1, 3))
    head_dim = draw(st.sampled_from([2, 4, 6]))
    return {
        "vocab_size": VOCABULARY,
        "num_hidden_layers": draw(st.integers(3, 5)),
        "num_key_value_heads": groups,
        "num_attention_heads": heads,
        "head_dim": head_dim,
        "hidden_size": heads * head_dim,
        "intermediate_size": draw(st.integers(9, 33)),
        "attention_bias": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "sliding_window": 8,
        "image_size": 8,
        "patch_size": 4,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }


def back_from_disk(model, plan):
    """The model, saved and loaded: it has the parameters that the plan predicted, and says the same."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = auto_class(type(model)).from_pretrained(folder)
    assert again.num_parameters() == plan.parameters_after
    assert (logits(again) - logits(model)).abs().max() / logits(model).abs().max() < SAME_AFTER_SAVING
    return again


@pytest.mark.parametrize("name", [name for name, spec in ARCHITECTURES.items() if len(spec.stacks) == 1])
@settings(max_examples=4, deadline=None, derandomize=True)
@given(size=sizes(), basis=st.sampled_from(["shared", "layer"]))
def test_every_stage_at_once_comes_back_from_disk(name, size, basis):
    torch.manual_seed(0)
    spec = ARCHITECTURES[name]
    every = spec.kernel_multiple
    size = size | {key: -(-size[key] // every) * every for key in ("hidden_size", "intermediate_size")}
    if any(weight.stacked for stack in spec.stacks for weight in stack.weights):
        experts = {"num_experts": 3, "num_local_experts": 3, "num_experts_per_tok": 2}
        size |= experts | {"moe_intermediate_size": size["intermediate_size"]}
    names = {key: OWN_KEYS.get(name, {}).get(key, key) for key in size}
    config = AutoConfig.for_model(name, **{names[key]: value for key, value in size.items() if names[key]})
    model = randomise(stock_class(config)._from_config(config).eval())
    narrow_ffn = max(every, (architecture_of(model).widths[Space.FFN] - 4) // every * every)
    narrow_stream = size["hidden_size"] - every
    dropped = {"count": 1} if spec.has_loss else {"layers": [1]}
    chosen: dict[str, object] = {"drop_layers": dropped, "ffn": {"size": narrow_ffn}}
    if size["num_key_value_heads"] > 1 and spec.refusal("heads") is None:
        chosen["heads"] = {"num_kv_heads": 1}
    if narrow_stream >= 4 and spec.refusal("residual") is None:
        chosen["width"] = {"hidden_size": narrow_stream, "basis": basis}
    if "share_ffns" not in spec.refusals and ("width" not in chosen or basis == "shared"):
        chosen["share_ffns"] = {"count": 2} if spec.has_loss else {"window": [0, 1]}
    plan = make_plan(model, stages(output="native", **chosen))
    compressed = compress_model(model, plan, batches_for(model, 24)).model
    again = back_from_disk(compressed, plan)
    if not again.can_generate():
        return
    generated = again.generate(tokens(1), max_new_tokens=2, min_new_tokens=2, do_sample=False)
    assert generated.shape == (1, 18)
