"""A model that no family describes, on the command line."""

import shutil

import pytest
from transformers import CohereConfig, CohereForCausalLM


@pytest.mark.parametrize(
    "target", [["--ffn-ratio", 0.5, "--drop-layers", 1], ["--keep", 0.9]], ids=["named", "planned"]
)
def test_the_command_line_takes_it(cli, checkpoint, text, tmp_path, target):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    config = CohereConfig.from_pretrained(folder)
    config.architectures = ["CohereForCausalLM"]
    CohereForCausalLM(config).save_pretrained(folder)
    data = ["--calibration", text, "--calibration-tokens", 2048, "--seqlen", 32]
    code, _, stderr = cli("compress", folder, tmp_path / "out", *target, *data, "--no-evaluate")
    assert code == 0, stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
