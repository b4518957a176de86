"""The operations that a plan predicts are those that are done, counted one by one."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from neuromeld import compress_model, make_plan, parse_recipe
from operations import CountedOperations

TOKENS, SEQLEN = 512, 64
SIZES = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4, "vocab_size": 97}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}

RECIPES = {
    "ffn": {"ffn": {"ratio": 0.5}},
    "ffn, merged": {"ffn": {"ratio": 0.5, "merge": "kmeans"}},
    "heads": {"heads": {"num_kv_heads": 2}},
    "heads and ffn": {"heads": {"num_kv_heads": 2}, "ffn": {"ratio": 0.5}},
    "some layers": {"ffn": {"size": [96, 48, 96, 48]}},
    "width": {"width": {"hidden_ratio": 0.5}},
    "width, refitted": {"width": {"hidden_ratio": 0.5, "refit": True}},
    "embedding": {"embedding": {"rank": 0.5}},
}


@pytest.mark.parametrize("name", RECIPES)
def test_forward_passes_are_as_many_as_predicted(name):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)).eval()
    data = [{"input_ids": torch.randint(0, 97, (1, SEQLEN))} for _ in range(TOKENS // SEQLEN)]
    plan = make_plan(model, parse_recipe(RECIPES[name] | {"calibration": {"tokens": TOKENS, "seqlen": SEQLEN}}))
    with CountedOperations() as counted, torch.no_grad():
        for batch in data:
            model(**batch, use_cache=False)
    assert counted.passes == TOKENS * plan.work.flops
    with CountedOperations() as counted:
        compress_model(model, plan, data)
    assert counted.passes == pytest.approx(plan.work.operations.tokens * plan.work.flops, rel=0.1)
