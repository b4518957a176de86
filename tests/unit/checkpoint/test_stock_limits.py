"""What transformers itself cannot do (docs/decisions/0005): the day one of these fails, native checkpoints can go."""

import pytest
import torch
from safetensors.torch import save_model
from transformers import AutoModelForCausalLM

from contract.families import FAMILIES, build
from neuromeld import make_plan, parse_recipe
from neuromeld.archs import ARCHITECTURES
from neuromeld.archs.classes import stock_class
from neuromeld.archs.spec import Space
from neuromeld.errors import UserInputError
from neuromeld.planning.plan import architecture_of
from neuromeld.stages.share_ffns import Sharing, share_ffns

KINDS = [family for family, config in FAMILIES.items() if ARCHITECTURES[config().model_type].config_keys("ffn")]
"""Where a config has a key for the width of FFNs."""


@pytest.mark.parametrize("family", KINDS)
def test_layers_of_several_widths_are_refused(family):
    config = FAMILIES[family]()
    model_class = stock_class(config)
    for key in ARCHITECTURES[config.model_type].config_keys("ffn"):
        setattr(config, key, 40)
        config.per_layer_config = {1: {key: 24}}
        with pytest.raises(RuntimeError, match=f"'{key}' is a per-layer attribute"):
            model_class._from_config(config)


@pytest.mark.parametrize("stage", [{"ffn": {"size": [24, 40, 8, 16]}}, {"heads": {"num_kv_heads": [1, 2, 2, 1]}}])
def test_who_asks_for_stock_layers_of_several_widths_is_told_what_to_do(stage):
    recipe = parse_recipe(stage | {"output": "stock", "calibration": {"tokens": 1536, "seqlen": 16}})
    message = "do not read transformers' per_layer_config.*stays stock.*Use --native, which .*serve-check"
    with pytest.raises(UserInputError, match=message):
        make_plan(build("llama"), recipe)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_shared_ffns_are_neither_saved_nor_loaded(family, tmp_path):
    model = build(family, dtype=torch.float32)
    arch = architecture_of(model)
    share_ffns(model, arch, range(1, 3), how=Sharing(align="none"))
    with pytest.raises(RuntimeError, match="shared tensors"):
        model.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    save_model(model, str(tmp_path / "model.safetensors"), metadata={"format": "pt"})
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    second = {weight.path for weight in arch.layer_weights(2) if "ffn" in (weight.in_, weight.out)}
    assert {key.rpartition(".")[0] for key in info["missing_keys"]} == second
    first, other = (again.get_submodule(arch.consumer(layer, Space.FFN).path).weight for layer in (1, 2))
    assert not torch.equal(first, other)
