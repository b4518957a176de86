"""What was promised to load without neuromeld does, in a process that cannot import it: one for all checkpoints."""

import os
import subprocess
import sys

import pytest
import torch

from contract.families import build
from contract.test_contract import narrow, recipe, stages
from neuromeld.checkpoint import save_checkpoint
from unit.checkpoint.tiny import IDS, STOCK_CONFIGS, build_stock, write
from unit.checkpoint.tiny import narrow as narrow_native

SAME = 1e-5

LOAD_WITHOUT_NEUROMELD = """
import sys
sys.modules["neuromeld"] = None  # any import of it fails
import torch
import transformers
for folder in sys.argv[1:]:
    auto = transformers.AutoModel if "headless" in folder else transformers.AutoModelForCausalLM
    model = auto.from_pretrained(folder, trust_remote_code="native" in folder)
    with torch.no_grad():
        found = model(input_ids=torch.arange(20).reshape(2, 10), use_cache=False)
    torch.save(found[0], folder + "/found.pt")
    if model.can_generate():
        model.generate(torch.tensor([[3, 4]]), max_new_tokens=2, eos_token_id=None, pad_token_id=0)
    print(type(model).__name__, type(model.config).model_type)
"""


@torch.no_grad()
def output(model) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False)[0]


@pytest.fixture
def written(tmp_path, tokenizer):
    """Folders, named by how they are to be loaded, each with the model that was saved there."""
    found = {}
    for family in sorted(STOCK_CONFIGS):
        for form, model in (("stock", build_stock(family)), ("native", narrow_native(family))):
            found[write(model, tmp_path / f"{family}-{form}")] = model
    bases = {"selector": "mean_abs_activation", "basis": "run:2"}
    chosen = {
        "qwen2-narrow-stock": recipe(output="stock", selector="mean_abs_activation"),
        "llama-tied-narrow-native": recipe(output="native", **bases),
        "bloom-narrow-native": recipe(output="native", **bases),
        "llama-headless-native": stages(output="native", ffn={"size": [24, 40, 8, 16]}),
    }
    for name, asked in chosen.items():
        family = name.removesuffix("-native").removesuffix("-stock").removesuffix("-narrow").removesuffix("-headless")
        model, plan = narrow(build(family, dtype=torch.float32), asked)
        assert plan.format == name.rpartition("-")[2]
        (tmp_path / name).mkdir()
        save_checkpoint(model, tokenizer, tmp_path / name, recipe_yaml="")
        found[tmp_path / name] = model.base_model if "headless" in name else model
    return found


def test_checkpoints_load_where_neuromeld_is_not(written, tmp_path):
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD_WITHOUT_NEUROMELD, *written],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for folder, model in written.items():
        found, expected = torch.load(folder / "found.pt"), output(model)
        assert (found - expected).abs().max() / expected.abs().max() < SAME, folder.name
    assert "Qwen2ForCausalLM qwen2" in done.stdout.splitlines()
