"""What is asked to be served is planned only where vLLM and llama.cpp will load it."""

import pytest

from neuromeld import make_plan, parse_recipe
from neuromeld.checkpoint.export.engines import verdicts
from neuromeld.errors import UserInputError
from neuromeld.planning.served import SERVED
from unit.checkpoint.export.models import build, ragged, ragged_heads, shared

CALIBRATION = {"tokens": 3072, "seqlen": 16}


def plan_of(family, stage):
    return make_plan(build(family), parse_recipe(stage | {"output": "served", "calibration": CALIBRATION}))


@pytest.mark.parametrize(
    ("stage", "output"),
    [
        ({"ffn": {"size": 48}}, "stock"),
        ({"ffn": {"size": [96, 40, 8, 72]}}, "native"),
        ({"remove_ffns": {"layers": [1]}}, "native"),
    ],
    ids=["uniform", "by layer", "removed"],
)
def test_sizes_of_ffns_are_served(stage, output):
    assert plan_of("llama", stage).format == output


@pytest.mark.parametrize(
    ("family", "stage", "reason"),
    [
        ("qwen3", {"ffn": {"size": [96, 40, 8, 72]}}, "vLLM: layers of several sizes.*llama.cpp: llama.cpp reads"),
        ("llama", {"heads": {"num_kv_heads": [2, 1, 2, 1]}}, "vLLM: its layers differ in their number of heads"),
        ("llama", {"share_ffns": {"window": [0, 1]}}, "vLLM: FFNs that share weights.*llama.cpp: FFNs that share"),
    ],
    ids=["qwen3", "heads", "shared"],
)
def test_what_one_of_them_does_not_load_is_refused(family, stage, reason):
    with pytest.raises(UserInputError, match=reason):
        plan_of(family, stage)


@pytest.mark.parametrize(
    ("model", "stage"),
    [
        (ragged("llama"), {"ffn": {"size": [96, 40, 8, 72]}}),
        (ragged("qwen3"), {"ffn": {"size": [96, 40, 8, 72]}}),
        (ragged_heads("llama"), {"heads": {"num_kv_heads": [2, 1, 2, 1]}}),
        (shared(), {"share_ffns": {"window": [1, 2]}}),
    ],
    ids=["ragged", "qwen3", "heads", "shared"],
)
def test_the_plan_says_what_serve_check_says_of_the_result(model, stage):
    answers = [verdict.how for verdict in verdicts(model.config) if verdict.engine in SERVED]
    family = model.config.model_type.removeprefix("neuromeld-")
    if None in answers:
        with pytest.raises(UserInputError, match="cannot be served"):
            plan_of(family, stage)
    else:
        assert plan_of(family, stage).format == "native"
