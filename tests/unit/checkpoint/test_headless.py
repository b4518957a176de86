"""Native models without their head, as `AutoModel` and vLLM ask for them; the plugin by which vLLM finds them."""

import importlib.metadata
import importlib.util
import tomllib
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from contract.families import build, tokens
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.errors import UserInputError
from neuromeld.model.native.modeling import check_vllm
from neuromeld.model.native.vllm import register_with_vllm
from unit.checkpoint.tiny import STOCK_CONFIGS, narrow, write
from unit.stages.models import batches

ROOT = Path(__file__).parents[3]
IDS = tokens(2)


def compressed(family: str, **stages: object):
    """A native model on the CPU in float32, which files hold exactly."""
    model = build(family, dtype=torch.float32)
    recipe = parse_recipe(stages | {"output": "native", "calibration": {"tokens": 1536, "seqlen": 16}})
    return compress_model(model, make_plan(model, recipe), batches()).model


@torch.no_grad()
def stream(model) -> torch.Tensor:
    return model(input_ids=IDS % 37, use_cache=False).last_hidden_state


@pytest.mark.parametrize("family", sorted(STOCK_CONFIGS))
def test_the_stream_without_the_head_is_the_stream_with_it(family, tmp_path):
    """Of a narrow stream, with shortcuts, and BLOOM's scaled tokens."""
    model = narrow(family)
    folder = write(model, tmp_path / "native")
    headless = AutoModel.from_pretrained(folder)
    assert type(headless).__name__ == f"Neuromeld{type(model.base_model).__name__}"
    torch.testing.assert_close(stream(headless), stream(model.base_model), rtol=0, atol=0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
@pytest.mark.parametrize(
    "stage", [{"ffn": {"size": [24, 40, 8, 16]}}, {"share_ffns": {"count": 2}}], ids=["ffn", "merge"]
)
def test_layers_of_several_widths_and_shared_ones_too(family, stage, tmp_path):
    model = compressed(family, **stage)
    folder = write(model, tmp_path / "native")
    headless, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    torch.testing.assert_close(stream(headless), stream(model.base_model), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"width": {"hidden_size": 18}}, "a width of its own for residual"),
        ({"heads": {"num_kv_heads": [1, 2, 2, 2]}}, "a width of its own for heads, kv"),
        ({"share_ffns": {"count": 2}}, "FFNs that share weights"),
    ],
    ids=["width", "heads", "merge"],
)
def test_what_vllm_would_get_wrong_is_refused(stage, message):
    with pytest.raises(ValueError, match=f"vLLM cannot serve.*{message}.*--stock"):
        check_vllm(compressed("llama", **stage).config.neuromeld)


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3"])
def test_ffns_of_several_widths_are_not_refused(family):
    check_vllm(compressed(family, ffn={"size": [24, 40, 8, 16]}).config.neuromeld)


def test_vllm_finds_the_plugin():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["vllm.general_plugins"]
    (entry,) = (importlib.metadata.EntryPoint(name, value, "vllm.general_plugins") for name, value in declared.items())
    assert entry.load() is register_with_vllm


def test_the_plugin_says_that_there_is_no_vllm():
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is installed")
    with pytest.raises(UserInputError, match="vLLM cannot be imported.*a plugin that vLLM calls itself"):
        register_with_vllm()
