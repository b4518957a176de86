"""Fewer experts in every layer of a mixture: the router's rows go along, and what is left loads as any other model."""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

from contract.families import GATED, tokens
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.archs.classes import stock_class
from neuromeld.discovery.lookup import randomise
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.runtime.journal import open_journal
from neuromeld.stages.experts import ExpertsStage

EXPERTS = 4
SIZES = GATED | {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 8}
SIZES |= {"num_experts_per_tok": 2, "bos_token_id": 1, "eos_token_id": 2}
DEEPSEEK = {
    "n_routed_experts": 8,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 40,
    "first_k_dense_replace": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
CONFIGS = {
    "mixtral": SIZES | {"num_local_experts": EXPERTS},
    "qwen3_moe": SIZES | {"num_experts": EXPERTS, "moe_intermediate_size": 40, "norm_topk_prob": True},
    "olmoe": SIZES | {"num_experts": EXPERTS},
    "granitemoe": SIZES | {"num_local_experts": EXPERTS},
    "gpt_oss": SIZES | {"num_local_experts": EXPERTS},
    "deepseek_v3": SIZES | DEEPSEEK,
}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NEUROMELD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def build(model_type, dtype=torch.float32, **changes):
    config = CONFIG_MAPPING[model_type](**CONFIGS[model_type] | changes)
    if dtype == torch.float64:
        config._experts_implementation = "eager"  # the others know no float64
    torch.manual_seed(0)
    model = stock_class(config)._from_config(config).to(dtype).eval()
    randomise(model)
    for name, buffer in model.named_buffers():
        if "correction" in name:
            buffer.data += 0.1 * torch.randn_like(buffer)
    return model


def plan_for(model, **stages):
    return make_plan(model, parse_recipe(stages | {"calibration": {"tokens": 1536, "seqlen": 16}}))


def compress(model, journal=None, **stages):
    data = [{"input_ids": ids} for ids in tokens(96).split(8)]
    return compress_model(model, plan_for(model, **stages), data, **({"journal": journal} if journal else {}))


@torch.no_grad()
def logits(model):
    return model(input_ids=tokens(2), use_cache=False).logits


def sent(model, layer):
    """The experts that the tokens of some text are sent to in a layer."""
    seen = []
    experts = next(m for n, m in model.model.layers[layer].named_modules() if n.endswith("experts"))
    handle = experts.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    logits(model)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("model_type", CONFIGS)
def test_fewer_experts_beside_narrower_ones_load_as_they_were(model_type, tmp_path):
    model = build(model_type)
    grouped = {"count": 4} if model_type == "deepseek_v3" else {"ratio": 0.5}
    plan = plan_for(model, experts=grouped | {"merge": "average"}, ffn={"ratio": 0.6})
    done = compress(model, experts=grouped | {"merge": "average"}, ffn={"ratio": 0.6})
    assert plan.format == ("native" if model_type == "deepseek_v3" else "stock")  # shared experts have that width, too
    assert plan.after.experts == len(done.results["experts"].layers[0].kept) < plan.before.experts
    assert int(sent(done.model, 2).max()) < plan.after.experts
    done.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(again), logits(done.model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_all_experts_leave_the_model_as_it_was(model_type):
    model = build(model_type)
    before = logits(model)
    assert torch.equal(logits(compress(model, experts={"ratio": 1.0}).model), before)


def test_an_expert_that_is_gone_is_one_that_the_router_cannot_choose():
    model, forbidding = (build("qwen3_moe", torch.float64) for _ in range(2))
    done = compress(model, experts={"count": 3, "compensate": "none"})
    for entry in done.results["experts"].layers:
        (gone,) = {*range(EXPERTS)} - {*entry.kept}

        def forbid(_, args, output, gone=gone):
            allowed = output[0].index_fill(1, torch.tensor([gone]), -torch.inf)
            best = allowed.softmax(-1, torch.float).topk(2)
            return allowed, (best.values / best.values.sum(1, keepdim=True)).to(args[0].dtype), best.indices

        forbidding.model.layers[entry.layer].mlp.gate.register_forward_hook(forbid)
    assert len({entry.kept for entry in done.results["experts"].layers}) > 1
    torch.testing.assert_close(logits(model), logits(forbidding), rtol=1e-6, atol=1e-6)


def twins(model_type):
    """The last expert is the second with its neurons in another order, and the router sends tokens to either; together
    they get a third of the tokens, and each token one expert.
    """
    model = build(model_type, torch.float64, num_experts_per_tok=1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    for layer in model.model.layers:
        experts = layer.mlp.experts
        router = (layer.mlp.gate if model_type == "qwen3_moe" else layer.mlp.router).weight.data
        router[3] = router[1] + 1e-3 * torch.randn_like(router[1])
        if model_type == "qwen3_moe":
            experts.gate_up_proj.data[3] = experts.gate_up_proj[1].unflatten(0, (2, 40))[:, order].flatten(0, 1)
            experts.down_proj.data[3] = experts.down_proj[1][:, order]
            continue
        layer.mlp.router.bias.data[3] = layer.mlp.router.bias[1]
        for of_neurons in (experts.gate_up_proj.data, experts.gate_up_proj_bias.data):
            of_neurons[3] = of_neurons[1].unflatten(-1, (40, 2))[..., order, :].flatten(-2)
        experts.down_proj.data[3] = experts.down_proj[1][order]
        experts.down_proj_bias.data[3] = experts.down_proj_bias[1]
    return model


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])
def test_twins_that_share_their_tokens_are_merged_exactly(model_type):
    """One expert a token, with a share of one: a token whose expert is gone is sent to its twin."""
    model = twins(model_type)
    before = logits(model)
    done = compress(model, experts={"count": 3, "selector": "frequency", "merge": "average", "compensate": "none"})
    for entry in done.results["experts"].layers:
        ((gone, heir),) = entry.merged
        assert {gone, heir} == {1, 3}
        assert entry.tokens[gone] > 0.02
        assert entry.error_after < 1e-12
    torch.testing.assert_close(logits(done.model), before, rtol=1e-6, atol=1e-6)


def test_the_refit_lowers_the_error_on_held_out_tokens():
    done = compress(build("olmoe"), experts={"ratio": 0.5})
    layers = done.results["experts"].layers
    assert all(entry.refitted == 2 for entry in layers)
    assert all(entry.error_after < 0.8 * entry.error_before for entry in layers)


def test_as_many_experts_of_every_group_stay_and_their_corrections_go_along(tmp_path):
    model = build("deepseek_v3")
    routers = {n: m for n, m in model.named_modules() if isinstance(m, DeepseekV3TopkRouter)}
    before = {name: router.e_score_correction_bias.clone() for name, router in routers.items()}
    done = compress(model, experts={"count": 4, "selector": "frequency"})
    assert [entry.layer for entry in done.results["experts"].layers] == [1, 2]
    for entry in done.results["experts"].layers:
        assert sum(number < 4 for number in entry.kept) == 2
        name = f"model.layers.{entry.layer}.mlp.gate"
        assert torch.equal(routers[name].e_score_correction_bias, before[name][list(entry.kept)])
    done.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-5)


def test_layers_that_are_recalled_are_those_that_were_made(tmp_path):
    with open_journal(tmp_path / "out") as journal:
        done, again = (compress(build("deepseek_v3"), journal, experts={"count": 4}) for _ in range(2))
        assert journal.num_recalled == 2
    assert again.results["experts"] == done.results["experts"]
    assert torch.equal(logits(again.model), logits(done.model))


def test_the_report_draws_errors_and_what_is_left():
    record = compress(build("olmoe"), experts={"count": 3, "merge": "average"}).record()
    (sentence,), (section,) = ExpertsStage().sentences(record), ExpertsStage().sections(record)
    assert "Of the 4 experts of a layer 3 are left" in sentence
    (gone,) = {*range(EXPERTS)} - {*record["experts"][0]["kept"]}
    for part in ("with refit", "Experts that are left", f"{gone} into "):
        assert part in section.body


@pytest.mark.parametrize(
    ("model_type", "count", "reason"),
    [
        ("mixtral", 5, "5 is more than the 4 that a layer has"),
        ("mixtral", 1, "fewer than the 2 that a token is sent to"),
        ("deepseek_v3", 5, "they come in 2 groups.*a multiple of 2, at least 4"),
    ],
)
def test_impossible_numbers_are_refused(model_type, count, reason):
    with pytest.raises(UserInputError, match=reason):
        plan_for(build(model_type), experts={"count": count})


def test_models_without_experts_or_with_others_are_refused():
    always_two = CONFIG_MAPPING["phimoe"](**SIZES, num_local_experts=4)
    llama = CONFIG_MAPPING["llama"](**GATED, head_dim=4)
    for config, reason in ((llama, "no mixture of experts"), (always_two, "no key .* how many experts a token")):
        with pytest.raises(UnsupportedModelError, match=reason):
            plan_for(stock_class(config)._from_config(config), experts={"count": 2})
