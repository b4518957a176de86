"""Low-rank updates where layers share their weights."""

import pytest
import torch

from contract.families import build, tokens
from neuromeld.errors import UnsupportedModelError
from neuromeld.evaluation import unique_parameters
from neuromeld.recovery.lora import low_rank_updates

TOLERANCE = 1e-6
"""The updates are float32."""


def share(model, how: str):
    """Layers 1 and 2 have one FFN's weights between them: as parameters, as matrices, or as one module."""
    first, second = model.model.layers[1], model.model.layers[2]
    if how == "module":
        second.mlp = first.mlp
    for name in ("gate_proj", "up_proj", "down_proj"):
        if how == "matrix":
            setattr(second.mlp, name, getattr(first.mlp, name))
        elif how == "parameter":
            getattr(second.mlp, name).weight = getattr(first.mlp, name).weight
    return model


@pytest.mark.parametrize("how", ["not", "parameter", "matrix", "module"])
def test_merged_model_is_the_one_that_was_trained(how):
    model = share(build("llama-tied"), how)
    untuned, parameters = model(input_ids=tokens(2)).logits, unique_parameters(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    with low_rank_updates(model, 3) as tuned:
        with torch.no_grad():
            for name, parameter in tuned.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.05)
        trained = tuned(input_ids=tokens(2)).logits
    assert dict(model.named_modules(remove_duplicate=False)) == modules
    merged = model(input_ids=tokens(2)).logits
    assert (trained - untuned).abs().max() > 0.1
    torch.testing.assert_close(merged, trained, atol=TOLERANCE, rtol=TOLERANCE)
    assert unique_parameters(model) == parameters
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("family", ["gpt2", "opt", "bloom"])
def test_every_orientation_is_followed(family):
    model = build(family)
    with low_rank_updates(model, 2) as tuned:
        with torch.no_grad():
            for name, parameter in tuned.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.05)
        trained = tuned(input_ids=tokens(2)).logits
    torch.testing.assert_close(model(input_ids=tokens(2)).logits, trained, atol=TOLERANCE, rtol=TOLERANCE)


def test_shared_weight_with_biases_apart_is_refused():
    model = share(build("llama-biased"), "parameter")
    with pytest.raises(UnsupportedModelError, match=r"layers\.2\.mlp\.gate_proj shares.*layers\.1.*--no-lora"):
        low_rank_updates(model, 2).__enter__()


@pytest.mark.parametrize("how", ["parameter", "matrix", "module"])
def test_shared_updates_survive_a_checkpoint(how, tmp_path):
    """By their names, as when a run is resumed."""
    model = share(build("llama-tied"), how)
    with low_rank_updates(model, 3) as tuned:
        updates = {name: p for name, p in tuned.named_parameters() if "lora_" in name}
        with torch.no_grad():
            for parameter in updates.values():
                parameter.normal_()
        saved = {name: parameter.clone() for name, parameter in updates.items()}
        tuned.save_pretrained(tmp_path)
        with torch.no_grad():
            for parameter in updates.values():
                parameter.zero_()
        tuned.load_adapter(tmp_path, "default", is_trainable=True)
        found = {name: p for name, p in tuned.named_parameters() if "lora_" in name}
        assert found.keys() == saved.keys()
        for name, parameter in found.items():
            assert torch.equal(parameter, saved[name]), name
            assert parameter.requires_grad
