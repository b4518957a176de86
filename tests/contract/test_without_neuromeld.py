"""What was promised to load without neuromeld does, in a process that cannot import it."""

import subprocess
import sys

import torch

from contract.families import build, tokens
from contract.test_contract import SAME_AFTER_SAVING, logits, narrow, recipe
from neuromeld.checkpoint import save_checkpoint

LOAD_WITHOUT_NEUROMELD = """
import sys
sys.modules["neuromeld"] = None  # any import of it fails
import torch
from transformers import AutoModelForCausalLM
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code="native" in folder)
    torch.save(model(input_ids=torch.load(folder + "/ids.pt")).logits, folder + "/logits.pt")
    print(type(model).__name__, type(model.config).model_type)
"""


def test_checkpoints_load_where_neuromeld_is_not(tmp_path, tokenizer):
    written = {}
    for family, output in (("qwen2", "stock"), ("llama-tied", "native"), ("bloom", "native")):
        basis = "shared" if output == "stock" else "run:2"
        chosen = recipe(output=output, selector="mean_abs_activation", basis=basis)
        model, plan = narrow(build(family, dtype=torch.float32), chosen)
        assert plan.format == output
        folder = tmp_path / f"{family}-{output}"
        folder.mkdir()
        save_checkpoint(model, tokenizer, folder, recipe_yaml="")
        torch.save(tokens(2), folder / "ids.pt")
        written[folder] = model
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_NEUROMELD, *written],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for folder, model in written.items():
        found = torch.load(folder / "logits.pt")
        assert (found - logits(model)).abs().max() / found.abs().max() < SAME_AFTER_SAVING, folder.name
    assert done.stdout.splitlines()[0].split() == ["Qwen2ForCausalLM", "qwen2"]
