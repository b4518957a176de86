"""What was promised to load without neuromeld does, in a process that cannot import it."""

import subprocess
import sys

import pytest
import torch

from contract.families import build, tokens
from contract.test_contract import SAME_AFTER_SAVING, logits, narrow, recipe
from neuromeld.checkpoint import save_checkpoint

LOAD_WITHOUT_NEUROMELD = """
import sys
sys.modules["neuromeld"] = None  # any import of it fails
import torch
from transformers import AutoConfig, AutoModelForCausalLM, OlmoeConfig, Phi3Config
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=sys.argv[2] == "native")
ids = torch.load(sys.argv[3] + "/ids.pt")
torch.save(model(input_ids=ids).logits, sys.argv[3] + "/logits.pt")
print(type(model).__name__, type(model.config).model_type)
"""


@pytest.mark.parametrize(("family", "output"), [("qwen2", "stock"), ("llama-tied", "native"), ("bloom", "native")])
def test_checkpoint_loads_where_neuromeld_is_not(family, output, tmp_path, tokenizer):
    model = build(family, dtype=torch.float32)
    basis = "shared" if output == "stock" else "run:2"
    model, plan = narrow(model, recipe(output=output, selector="mean_abs_activation", basis=basis))
    assert plan.format == output
    save_checkpoint(model, tokenizer, tmp_path, recipe_yaml="")
    torch.save(tokens(2), tmp_path / "ids.pt")
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_NEUROMELD, tmp_path, output, tmp_path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "logits.pt")
    assert (found - logits(model)).abs().max() / found.abs().max() < SAME_AFTER_SAVING
    if output == "stock":
        assert done.stdout.split() == ["Qwen2ForCausalLM", "qwen2"]
