"""Layer drop and FF deletion."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from contract.families import FAMILIES as CONFIGS
from contract.families import build, tokens
from neuromeld.archs.spec import Space
from neuromeld.errors import UserInputError
from neuromeld.evaluation import unique_parameters
from neuromeld.planning.plan import architecture_of
from neuromeld.stages.drop_layers import drop_layers
from neuromeld.stages.remove_ffns import remove_ffns
from unit.stages.models import EXACT, FAMILIES, logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dropped_layer_is_one_that_adds_nothing(family):
    """The same model, its layers passing on what they were given."""
    model, skipping = build(family), build(family)
    arch = architecture_of(model)
    for layer in (1, 2):
        pass_on(skipping.get_submodule(arch.layer_path(layer)))
    left = drop_layers(model, arch, [2, 1])
    assert left.num_layers == model.config.num_hidden_layers == 2
    assert architecture_of(model) == left
    torch.testing.assert_close(logits(model), logits(skipping), rtol=EXACT, atol=EXACT)


def pass_on(layer):
    def after(_, args, kwargs, output):
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    layer.register_forward_hook(after, with_kwargs=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache_is_that_without(family):
    model = build(family, dtype=torch.float32)
    drop_layers(model, architecture_of(model), [0, 2])
    with_cache, without = (generate(model, use_cache=use_cache) for use_cache in (True, False))
    assert torch.equal(with_cache, without)


def generate(model, **options):
    length = {"max_new_tokens": 6, "min_new_tokens": 6}
    return model.generate(tokens(2), **length, do_sample=False, pad_token_id=0, **options)


def test_layers_keep_their_own_kind_of_attention(monkeypatch):
    config = CONFIGS["qwen3"]()
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config.update({"layer_types": kinds, "sliding_window": 4, "use_sliding_window": True})
    monkeypatch.setitem(CONFIGS, "qwen3", lambda: config)
    model = build("qwen3", dtype=torch.float32)
    drop_layers(model, architecture_of(model), [0])
    assert model.config.layer_types == kinds[1:]
    assert torch.equal(generate(model, use_cache=True), generate(model, use_cache=False))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_fewer_layers_is_a_stock_one(family, tmp_path):
    model = build(family, dtype=torch.float32)
    drop_layers(model, architecture_of(model), [1])
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert unique_parameters(again) == unique_parameters(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_deleted_ff_writes_its_bias(family):
    model, silenced = build(family), build(family)
    arch = architecture_of(model)
    for layer in range(arch.num_layers):
        silenced.get_submodule(arch.consumer(layer, Space.FFN).path).register_forward_hook(only_bias)
    remove_ffns(model, arch, range(arch.num_layers))
    torch.testing.assert_close(logits(model), logits(silenced), rtol=EXACT, atol=EXACT)
    generated = generate(model)
    assert generated.shape == (2, 22)


def only_bias(module, _, output):
    return torch.zeros_like(output) if module.bias is None else module.bias.expand_as(output)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_that_deletion_leaves(family):
    model = build(family)
    arch = architecture_of(model)
    before = unique_parameters(model)
    remove_ffns(model, arch, [1])
    producers, consumer = arch.producers(1, Space.FFN), arch.consumer(1, Space.FFN)
    f, d = arch.widths[Space.FFN], arch.width
    biased = model.get_submodule(producers[0].path).bias is not None
    gone = (f - (consumer.layout == "conv1d")) * ((len(producers) + 1) * d + biased * len(producers))
    assert unique_parameters(model) == before - gone


@pytest.mark.parametrize("remove", [drop_layers, remove_ffns])
def test_layers_that_do_not_exist(remove):
    model = build("llama")
    with pytest.raises(UserInputError, match=r"layers -1, 4 do not exist: those of this model are 0 to 3"):
        remove(model, architecture_of(model), [-1, 2, 4])


def test_all_layers():
    model = build("llama")
    with pytest.raises(UserInputError, match="dropping all 4 layers leaves none"):
        drop_layers(model, architecture_of(model), range(4))
