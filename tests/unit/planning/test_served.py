"""What is asked for engines is planned only where they will load it, and so is what a budget finds by default."""

import pytest
import torch

from contract.families import build as family_model
from contract.families import tokens
from neuromeld import Budget, make_plan, parse_recipe
from neuromeld.checkpoint.export.engines import verdicts
from neuromeld.errors import UserInputError
from neuromeld.planning.allocate import Allocation
from neuromeld.planning.candidates import SearchSpace, candidates
from neuromeld.planning.plan import architecture_of
from neuromeld.planning.sensitivity import fisher_scores
from neuromeld.planning.served import SERVED, multiples_of
from neuromeld.stages.base import Multiples
from unit.checkpoint.export.models import build, ragged, ragged_heads, shared

CALIBRATION = {"tokens": 3072, "seqlen": 16}


def plan_of(family, stage, output=SERVED):
    return make_plan(build(family), parse_recipe(stage | {"output": output, "calibration": CALIBRATION}))


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
        (
            "llama",
            {"heads": {"num_kv_heads": 2, "by_layer": True, "selector": "learned"}},
            "vLLM: its layers differ in their number of heads",
        ),
        ("llama", {"embedding": {"rank": 0.5}}, "vLLM: it has a matrix between.*llama.cpp: it has a matrix between"),
        ("llama", {"share_ffns": {"window": [0, 1]}}, "vLLM: FFNs that share weights.*llama.cpp: FFNs that share"),
    ],
    ids=["qwen3", "heads", "heads that are learned", "embedding", "shared"],
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
    answers = [verdict.how for verdict in verdicts(model.config) if verdict.engine.lower() in SERVED.split(",")]
    family = model.config.model_type.removeprefix("neuromeld-")
    if None in answers:
        with pytest.raises(UserInputError, match="cannot be served"):
            plan_of(family, stage)
    else:
        assert plan_of(family, stage).format == "native"


def test_only_the_engines_that_are_named_have_to_load_it():
    heads = {"heads": {"num_kv_heads": [2, 1, 2, 1]}}
    assert plan_of("llama", heads, "llama.cpp").format == "native"
    assert plan_of("llama", heads, "LLAMA.cpp").recipe.output == "llama.cpp"
    with pytest.raises(UserInputError, match=r"Did you mean 'vllm'"):
        plan_of("llama", heads, "vlm")
    with pytest.raises(UserInputError, match="alone, or engines"):
        plan_of("llama", heads, "stock,vllm")


@pytest.mark.parametrize("keep", [0.9, 0.6])
def test_by_default_a_budget_finds_what_the_engines_load_and_native_where_asked(keep):
    model = family_model("llama-tied")
    arch = architecture_of(model)
    scores = fisher_scores(model, arch, [{"input_ids": tokens(4)}])

    def offered(output):
        return candidates(
            SearchSpace(model, arch, Budget(keep=keep), scores, {"calibration": CALIBRATION, "output": output})
        )

    default = offered("auto")
    plans = [make_plan(model, one.recipe) for one in default]
    assert {plan.format for plan in plans} == {"stock", "native"}
    shared = [one.name for one in offered("native") if one.recipe.share_ffns]
    assert shared
    assert not any(one.recipe.share_ffns or one.recipe.embedding for one in default)
    for one in offered(SERVED):
        assert make_plan(model, one.recipe).recipe.output == SERVED  # else it is refused


@pytest.mark.parametrize(
    ("output", "alike", "by_layer"),
    [
        ("auto", 1, 1),
        ("llama.cpp", 32, 32),
        ("llama.cpp:q4_k_m", 256, 256),
        ("vllm", 1, 1),
        ("vllm:3,llama.cpp", 96, 96),
        ("mlx-lm", 1, 256),
    ],
)
def test_engines_want_multiples(output, alike, by_layer):
    assert multiples_of(output) == Multiples(alike, by_layer)


@pytest.mark.parametrize("output", ["vllm:q8_0", "vllm:0", "llama.cpp:4", "native:2"])
def test_what_an_engine_does_not_have_is_refused(output):
    with pytest.raises(UserInputError, match=r"behind \w+.* there may be|nothing stands behind it"):
        plan_of("llama", {"ffn": {"size": 48}}, output)


def test_a_share_of_the_neurons_is_rounded_to_what_the_engine_wants():
    assert plan_of("llama", {"ffn": {"ratio": 0.8}}).after.ffn == (64,) * 4
    assert plan_of("llama", {"ffn": {"ratio": 0.8}}, "vllm").after.ffn == (72,) * 4


def test_widths_by_layer_are_whole_or_multiples():
    arch = architecture_of(build("llama"))
    scores = [torch.rand(96, generator=torch.Generator().manual_seed(layer)) for layer in range(4)]
    assert {width % 32 for width in Allocation(arch, scores, None, 2, 32).at(2e-3).ffn} == {0}
    found = Allocation(arch, scores, None, 2, 40).at(2e-3).ffn
    assert set(found) <= {40, 80, 96}
    assert set(found) != {96}


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ({"heads": {"num_kv_heads": 1}}, None),
        ({"ffn": {"size": [96, 41, 8, 72]}}, "2 cards cannot share FFNs of 41 neurons"),
    ],
    ids=["heads", "ffn"],
)
def test_cards_share_what_they_can(stage, reason):
    if reason is None:
        assert plan_of("llama", stage, "vllm:2").format == "stock"
        return
    with pytest.raises(UserInputError, match=reason):
        plan_of("llama", stage, "vllm:2")
    with pytest.raises(UserInputError, match="3 cards cannot share 4 query heads; 3 cards cannot share 2 key-value"):
        plan_of("llama", {"ffn": {"size": 48}}, "vllm:3")
