"""A model that no family describes, on the command line."""

import json
import shutil

import pytest
import transformers
from transformers import CohereConfig, CohereForCausalLM, LlamaConfig

from neuromeld.checkpoint.loading import PIPELINES
from neuromeld.model.native.classes import AUTO_CLASSES


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


@pytest.mark.parametrize(
    "head", ["BertForTokenClassification", "BertForQuestionAnswering", "ElectraForPreTraining", "AlbertModel"]
)
def test_the_command_line_takes_a_model_with_its_head(cli, checkpoint, text, tmp_path, head):
    """The card says what loads it, and what it is compared with is the original."""
    folder, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(checkpoint, folder)
    vocabulary = LlamaConfig.from_pretrained(checkpoint).vocab_size
    model_class = getattr(transformers, head)
    config = model_class.config_class(
        **{"vocab_size": vocabulary, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"intermediate_size": 40, "max_position_embeddings": 128},
    )
    config.architectures = [head]
    model_class(config).save_pretrained(folder)
    target = ["--ffn-ratio", 0.5] if head.startswith("Bert") else ["--embedding-rank", 12]
    data = ["--calibration", text, "--calibration-tokens", 2048, "--seqlen", 32]
    code, _, stderr = cli("compress", folder, out, *target, *data, "--no-evaluate")
    assert code == 0, stderr
    record = json.loads((out / "record.json").read_text())
    assert record["format"] == "stock"
    assert f"pipeline_tag: {PIPELINES[record['auto_class']]}" in (out / "README.md").read_text()
    assert type(getattr(transformers, record["auto_class"]).from_pretrained(out)).__name__ == head
    code, stdout, stderr = cli(
        "evaluate", out, "--against", folder, "--text", text, "--tokens", 256, "--seqlen", 32, "--json"
    )
    assert code == 0, stderr
    assert "against" in json.loads(stdout)["protocol"]


def test_every_auto_class_has_a_pipeline():
    assert set(PIPELINES) == set(AUTO_CLASSES)
