"""Hand-off to torchao: what was compressed is quantised to 8 bits as any other checkpoint, ties and all."""

import pytest
import torch
from transformers import AutoModelForCausalLM, TorchAoConfig

from contract.families import build
from contract.test_contract import logits, narrow, stages

quantization = pytest.importorskip("torchao.quantization", reason="pip install '.[quantise]'")

STAGES = {
    "ffn": ({"ffn": {"size": 24}}, "stock"),
    "width": ({"width": {"hidden_size": 18, "refit": False}}, "stock"),
    "share_ffns": ({"share_ffns": {"window": [1, 2], "gain": "channel", "rank": 3}}, "native"),
}


def quantise(stage, output, folder, **settings):
    """The model that was compressed and saved to `folder`, and what is loaded from there in 8 bits."""
    model, plan = narrow(build("llama", dtype=torch.float32), stages(**stage))
    assert plan.format == output
    model.save_pretrained(folder)
    wanted = TorchAoConfig(quantization.Int8WeightOnlyConfig(), **settings)
    return model, AutoModelForCausalLM.from_pretrained(folder, quantization_config=wanted)


def steps(quantised, exact):
    """The largest error of each row, in steps of 8 bits."""
    weight = (
        quantised.weight.dequantize() if isinstance(quantised.weight, quantization.Int8Tensor) else quantised.weight
    )
    return 127 * (weight - exact.weight).abs().amax(dim=1) / exact.weight.abs().amax(dim=1)


@pytest.mark.parametrize("name", STAGES)
def test_a_compressed_checkpoint_is_quantised_and_survives_saving(name, tmp_path):
    model, quantised = quantise(*STAGES[name], tmp_path / "compressed")
    for layer, exact in zip(quantised.model.layers, model.model.layers, strict=True):
        for projection in ("q_proj", "o_proj"):
            found = steps(getattr(layer.self_attn, projection), getattr(exact.self_attn, projection))
            assert 0 < found.max() < 0.55
    quantised.save_pretrained(tmp_path / "quantised")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "quantised")
    torch.testing.assert_close(logits(again), logits(quantised), rtol=0, atol=0)


@pytest.mark.parametrize("named", [False, True])
def test_shared_ffns_stay_as_they_are_unless_what_stays_is_named(named, tmp_path):
    settings = {"modules_to_not_convert": ["lm_head"]} if named else {}
    model, quantised = quantise(*STAGES["share_ffns"], tmp_path, **settings)
    first, second = (quantised.model.layers[layer].mlp.up_proj for layer in (1, 2))
    assert first.weight is second.weight
    assert (steps(first, model.model.layers[1].mlp.up_proj).max() > 0) == named
