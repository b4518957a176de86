"""Written out in full for each layer, the weights are those of a stock model that computes the same."""

import pytest
import torch

from neuromeld.checkpoint.export.weights import PlainWeights
from unit.checkpoint.export.models import build, ragged, shared

IDS = torch.arange(40)[None] * 7 % 300
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def stock_with(weights):
    stock = build("llama")
    missing = stock.load_state_dict(dict(weights), strict=False)
    assert missing.missing_keys == ["lm_head.weight"]
    assert not missing.unexpected_keys
    return stock


@pytest.mark.parametrize("model", [ragged("llama"), ragged("llama", (96, 0, 8, 72))], ids=["ragged", "removed"])
def test_filled_up_to_one_width_it_is_a_stock_model(model):
    torch.testing.assert_close(logits(stock_with(PlainWeights(model, 96))), logits(model), **ROUNDING)


def test_a_full_copy_of_a_shared_ffn_has_its_corrections_in_it():
    model = shared()
    torch.testing.assert_close(logits(stock_with(PlainWeights(model))), logits(model), **ROUNDING)


def test_a_width_is_filled_up_to_a_multiple_and_nothing_is_left_empty():
    weights = PlainWeights(ragged("llama"), 32)
    assert [weights.width(neurons) for neurons in (96, 40, 8, 0)] == [96, 64, 32, 32]
    assert weights["model.layers.1.mlp.up_proj.weight"].shape == (64, 128)


def test_gate_and_up_in_one_matrix_are_filled_up_each():
    stock = build("phi3")
    wide = build("phi3", intermediate_size=128)
    wide.load_state_dict(dict(PlainWeights(stock, 128)), strict=False)
    torch.testing.assert_close(logits(wide), logits(stock), **ROUNDING)
