"""Image models whose layers are in stages of several widths: found and proved, made smaller, and loaded again."""

import pytest
import torch
import transformers

from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.archs.sizes import Sizes
from neuromeld.archs.spec import Space
from neuromeld.discovery.lookup import randomise
from neuromeld.errors import UnsupportedModelError
from neuromeld.planning.plan import architecture_of

PYRAMID = {"hidden_sizes": [8, 16], "depths": [2, 3], "num_encoder_blocks": 2, "image_size": 32, "num_labels": 3}
SMALL = {
    "segformer": PYRAMID
    | {
        "num_attention_heads": [1, 2],
        "sr_ratios": [2, 1],
        "mlp_ratios": [4, 4],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
    },
    "poolformer": PYRAMID | {"patch_sizes": [7, 3], "strides": [4, 2], "padding": [2, 1]},
    "convnext": {"hidden_sizes": [8, 16], "depths": [2, 3], "num_stages": 2, "image_size": 32, "num_labels": 3},
}
"""FFNs with a filter for every hidden channel, of convolutions at single points, and of plain matrices."""


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NEUROMELD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def build(model_type):
    config = transformers.CONFIG_MAPPING[model_type](**SMALL[model_type])
    torch.manual_seed(0)
    model = transformers.AutoModelForImageClassification.from_config(config).eval()
    randomise(model)
    return model


def images(count=4):
    return [{"pixel_values": torch.randn(2, 3, 32, 32)} for _ in range(count)]


@torch.no_grad()
def logits(model, batch):
    return model(**batch).logits


def plan_for(model, **stages):
    return make_plan(model, parse_recipe(stages | {"calibration": {"tokens": 4096, "seqlen": 16}}))


@pytest.mark.parametrize("model_type", SMALL)
def test_every_stage_is_narrowed_by_its_own_width_and_loads_again(model_type, tmp_path):
    model = build(model_type)
    plan = plan_for(model, ffn={"ratio": 0.5}, drop_layers={"layers": [1]})
    assert plan.before.ffn == (32,) * 2 + (64,) * 3
    assert plan.after.ffn == (16,) + (32,) * 2
    smaller = compress_model(model, plan, images()).model
    assert sum(parameter.numel() for parameter in smaller.parameters()) == plan.parameters_after
    assert smaller.config.depths == [1, 2]
    smaller.save_pretrained(tmp_path)
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    (batch,) = images(1)
    torch.testing.assert_close(logits(again, batch), logits(smaller, batch), rtol=1e-4, atol=1e-5)


def test_units_that_wrote_nothing_can_go_from_convolutions():
    """The half that is kept is found among silent others, and then a refit has nothing to make up for."""
    model = build("segformer")
    arch = architecture_of(model)
    with torch.no_grad():
        for layer in range(arch.num_layers):
            consumer = model.get_submodule(arch.consumer(layer, Space.FFN).path)
            consumer.weight[:, ::2] = 0
    (batch,) = images(1)
    before = logits(model, batch)
    plan = plan_for(model, ffn={"ratio": 0.5, "compensate": "none"})
    smaller = compress_model(model, plan, images()).model
    torch.testing.assert_close(logits(smaller, batch), before, rtol=1e-4, atol=1e-5)


def test_a_norm_over_all_hidden_channels_is_refused():
    config = transformers.ConvNextV2Config(**SMALL["convnext"])
    torch.manual_seed(0)
    model = transformers.ConvNextV2ForImageClassification(config).eval()
    with pytest.raises(UnsupportedModelError, match="pwconv1 and pwconv2: other outputs come of its units"):
        architecture_of(model)


def test_layers_go_from_every_stack_and_the_others_keep_their_sizes():
    sizes = Sizes(hidden=16, ffn=(32, 32, 64, 64, 64), num_kv_heads=(1,) * 5, depths=(2, 3))
    left = sizes.without_layers(1)
    assert (left.ffn, left.depths, left.num_layers) == ((32, 64, 64), (1, 2), 3)
