"""Who follows `docs/add-an-architecture.md` has added an architecture."""

import re
import textwrap
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Starcoder2Config

from contract.families import GATED, exact_norms, randomise
from contract.test_contract import EXACT, SAME_AFTER_SAVING, logits, narrow, recipe, stages
from neuromeld.archs import ARCHITECTURES, ArchSpec
from neuromeld.checkpoint import load_model, save_checkpoint
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.model.native.block import register_native
from neuromeld.planning.plan import make_plan

DOCUMENT = Path(__file__).parents[2] / "docs" / "add-an-architecture.md"


def build(*, tied: bool = False):
    torch.manual_seed(0)
    config = Starcoder2Config(**GATED, tie_word_embeddings=tied)
    return randomise(AutoModelForCausalLM.from_config(config).double().eval())


@pytest.fixture
def _added(monkeypatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    namespace: dict[str, ArchSpec] = {}
    exec(compile(textwrap.dedent(code), str(DOCUMENT), "exec"), namespace)
    monkeypatch.setitem(ARCHITECTURES._entries, namespace["SPEC"].model_type, namespace["SPEC"])
    register_native()


def test_its_width_is_unknown_before():
    with pytest.raises(UnsupportedModelError, match="starcoder2 models: this architecture was discovered"):
        make_plan(build(), recipe())


@pytest.mark.usefixtures("_added")
@pytest.mark.parametrize("output", ["stock", "native"])
def test_full_width_changes_nothing_afterwards(output):
    model = exact_norms(build(tied=output == "native"))
    expected = logits(model)
    model, _ = narrow(model, recipe(output=output, hidden_size=GATED["hidden_size"]))
    assert (logits(model) - expected).norm() / expected.norm() < EXACT


@pytest.mark.usefixtures("_added")
def test_tied_head_behind_a_layer_norm_is_not_stock():
    with pytest.raises(UserInputError, match="tied head behind a LayerNorm"):
        make_plan(build(tied=True), recipe(output="stock"))
    assert make_plan(build(tied=True), recipe()).format == "native"


@pytest.mark.usefixtures("_added")
@pytest.mark.parametrize("output", ["stock", "native"])
def test_everything_works_afterwards(output, tmp_path, tokenizer):
    model = build(tied=output == "native").float()
    given = {
        "drop_layers": {"count": 1},
        "heads": {"num_kv_heads": 1},
        "ffn": {"size": 24},
        "width": {"hidden_size": 18},
    }
    model, plan = narrow(model, stages(output=output, **given))
    assert plan.format == output
    save_checkpoint(model, tokenizer, tmp_path, recipe_yaml="")
    again = load_model(tmp_path, dtype=None, device="cpu")
    assert (logits(again) - logits(model)).abs().max() / logits(model).abs().max() < SAME_AFTER_SAVING
