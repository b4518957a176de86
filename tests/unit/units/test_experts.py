"""Experts are narrowed one by one, each on the tokens that it gets."""

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM

from contract.families import GATED, batches_for, build, randomise, tokens
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.model.layerwise import walk_layers
from neuromeld.model.surgery import read_matrix
from neuromeld.planning.plan import architecture_of
from neuromeld.units.sublayer import Sublayer, experts_of


def narrow(model, **stages):
    chosen = parse_recipe(stages | {"calibration": {"tokens": 1536, "seqlen": 16}})
    return compress_model(model, make_plan(model, chosen), batches_for(model))


@torch.no_grad()
def logits(model):
    return model(input_ids=tokens(2), use_cache=False).logits


def mixtral(**experts) -> MixtralForCausalLM:
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(**GATED, head_dim=4, **experts, experts_implementation="eager"))
    return randomise(model.double().eval())


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_neurons_that_go_are_those_that_would_write_nothing(family):
    model, silenced = build(family), build(family)
    done = narrow(model, ffn={"size": 16, "compensate": "none"})
    assert [(entry.layer, entry.expert) for entry in done.results["ffn"].layers] == [
        (i, e) for i in range(4) for e in range(3)
    ]
    assert len({entry.kept for entry in done.results["ffn"].layers}) > 4
    for entry in done.results["ffn"].layers:
        gone = [neuron for neuron in range(40) if neuron not in entry.kept]
        silenced.model.layers[entry.layer].mlp.experts.down_proj.data[entry.expert][:, gone] = 0
    torch.testing.assert_close(logits(model), logits(silenced), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "stages",
    [
        {"ffn": {"size": 16}},
        {"ffn": {"size": 16, "merge": "transport", "selector": "flap"}},
        {"width": {"hidden_size": 16}, "ffn": {"size": 24}, "output": "native"},
    ],
)
def test_an_expert_that_gets_every_token_is_an_ordinary_ffn(stages):
    mixture = mixtral(num_local_experts=1, num_experts_per_tok=1)
    same = {"rms_norm_eps": 1e-5, "sliding_window": None, "rope_parameters": mixture.config.rope_parameters}
    plain = MistralForCausalLM(MistralConfig(**GATED, **same, head_dim=4)).double().eval()
    state = mixture.state_dict()
    for i, layer in enumerate(mixture.model.layers):
        gate, up = layer.mlp.experts.gate_up_proj[0].chunk(2)
        matrices = {"gate_proj": gate, "up_proj": up, "down_proj": layer.mlp.experts.down_proj[0]}
        state |= {f"model.layers.{i}.mlp.{name}.weight": matrix for name, matrix in matrices.items()}
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    torch.testing.assert_close(logits(mixture), logits(plain), rtol=1e-5, atol=1e-5)
    results = [logits(narrow(model, **stages).model) for model in (mixture, plain)]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_an_expert_that_gets_too_few_tokens_is_not_compensated():
    model = mixtral(num_local_experts=3, num_experts_per_tok=1)
    for layer in model.model.layers:
        router = layer.mlp.gate.weight.data
        router[1], router[2] = -router[0], 0  # one of the first two always wins
    done = narrow(model, ffn={"size": 16})
    fits = {(entry.layer, entry.expert): entry.fit.ridge for entry in done.results["ffn"].layers}
    assert all((ridge is None) == (expert == 2) for (_, expert), ridge in fits.items())
    assert torch.isfinite(logits(model)).all()


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
@torch.no_grad()
def test_what_experts_write_adds_up_to_what_the_mixture_writes(family):
    model = build(family)
    arch = architecture_of(model)
    sublayer = Sublayer(model, next(walk_layers(model, arch, batches_for(model)[:2])), "ffn")
    x, chosen, shares = sublayer.called(1)
    found = torch.zeros_like(x)
    for expert in experts_of(sublayer):
        sent = (chosen == expert.number).any(1)
        assert torch.equal(expert.routed[1][0], x[sent])
        found[sent] += expert.features(1) @ read_matrix(expert.model, expert.consumer)
    torch.testing.assert_close(found, model.get_submodule(sublayer.consumer.path)(x, chosen, shares))
