"""CLIP's images with the projection to what texts share: a class that no auto class of transformers finds."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from contract.families import randomise
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.archs.classes import stock_class
from neuromeld.checkpoint.loading import auto_classes, load_lines, pipeline
from neuromeld.errors import UserInputError
from neuromeld.evaluation import flops_per_token, unique_parameters
from neuromeld.model.outputs import outputs, said
from neuromeld.planning.plan import CONTEXT


def encoder():
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        **{"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 4},
        **{"image_size": 16, "patch_size": 4, "projection_dim": 12, "architectures": ["CLIPVisionModelWithProjection"]},
    )
    model = CLIPVisionModelWithProjection(config).eval()
    randomise(model)
    return model


def images():
    return {"pixel_values": torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))}


def recipe(**stages):
    return parse_recipe({**stages, "calibration": {"tokens": 1536, "seqlen": 16}})


def test_its_ffns_are_narrowed_and_layers_dropped(tmp_path):
    model = encoder()
    assert stock_class(model.config) is CLIPVisionModelWithProjection
    assert outputs(model, images()).shape == (4, 12)
    assert said(model, images()).rows.shape == (4, 12)
    plan = make_plan(model, recipe(ffn={"ratio": 0.5}, drop_layers={"layers": [1]}))
    assert plan.format == "stock"
    done = compress_model(model, plan, [images() for _ in range(8)]).model
    assert unique_parameters(done) == plan.parameters_after
    assert flops_per_token(done, context=CONTEXT) == plan.flops_after
    done.save_pretrained(tmp_path)
    again = CLIPVisionModelWithProjection.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(outputs(again, images()), outputs(done, images()), rtol=0, atol=0)
    record = auto_classes(done, None)
    assert (record["auto_class"], pipeline(record)) == ("CLIPVisionModelWithProjection", "feature-extraction")
    assert "import AutoProcessor, CLIPVisionModelWithProjection" in load_lines(record)


def test_what_a_stock_config_cannot_state_is_refused():
    with pytest.raises(UserInputError, match="no auto class of transformers finds CLIPVisionModelWithProjection"):
        make_plan(encoder(), recipe(ffn={"size": [8, 16, 24, 32]}))
