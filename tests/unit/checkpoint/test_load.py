"""What a folder may be, and what is refused; every refusal names the file or the tensor."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config

from neuromeld.checkpoint import load_config, load_model, load_tokenizer
from neuromeld.errors import CheckpointError, NumericsError, UnsupportedModelError
from unit.checkpoint.tiny import build_tokenizer, logits_of, write


def load(folder, **options):
    return load_model(folder, **{"dtype": None, "device": "cpu"} | options)


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_the_model_comes_back_in_eval_mode_and_in_the_dtype_asked_for(folder, llama):
    loaded = load(folder)
    assert not loaded.training
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(logits_of(loaded), logits_of(llama), rtol=0, atol=0)
    assert load(folder, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_the_tokenizer_comes_back(folder):
    loaded = load_tokenizer(folder)
    assert loaded("w5 w6 nothing")["input_ids"] == [5, 6, 0]
    assert loaded.chat_template == build_tokenizer().chat_template


def test_a_folder_without_config(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no config.json, so it is not a Hugging Face checkpoint$"):
        load_config(tmp_path)
    (tmp_path / "a.gguf").touch()
    with pytest.raises(CheckpointError, match=r"pass its path \(here: a.gguf\)"):
        load_config(tmp_path)


def test_a_broken_config(folder):
    change_config(folder, hidden_size="wide")
    with pytest.raises(CheckpointError, match=r"not a valid llama config: .*hidden_size"):
        load_config(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"not valid JSON"):
        load_config(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"not a JSON object"):
        load_config(folder)


@pytest.mark.parametrize("model_type", ["brontosaurus", "neuromeld-brontosaurus", None])
def test_an_unknown_model_type(folder, model_type):
    change_config(folder, model_type=model_type)
    with pytest.raises(UnsupportedModelError, match=f"model_type '{model_type}', unknown to transformers .*: update"):
        load_config(folder)


def test_code_that_comes_with_a_checkpoint_is_not_run(folder, tmp_path):
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    change_config(folder, auto_map=auto_map)
    load(folder)
    change_config(folder, auto_map=auto_map, model_type="brontosaurus")
    with pytest.raises(UnsupportedModelError, match=r"such code is never run"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_model_that_is_not_known(tmp_path):
    Wav2Vec2Config().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"unknown architecture 'wav2vec2'"):
        load_config(tmp_path)


def test_a_quantised_model(folder):
    change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UnsupportedModelError, match=r"is quantised"):
        load(folder)


def test_no_tokenizer(folder):
    for path in folder.glob("token*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer .*save it beside the model"):
        load_tokenizer(folder)


@pytest.mark.parametrize("content", ["{}", "{", '{"model": {"type": "none"}}'])
def test_a_damaged_tokenizer(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"the tokenizer in .* cannot be read"):
        load_tokenizer(folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor model.safetensors.index.json"):
        load(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model.safetensors is truncated or damaged \(.*bytes\)"):
        load(folder)


def test_a_missing_shard(llama, tmp_path):
    folder = write(llama, tmp_path / "sharded", max_shard_size="4KB")
    torch.testing.assert_close(logits_of(load(folder)), logits_of(llama), rtol=0, atol=0)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=f"index.json names files that are missing: {shards[1].name};"):
        load(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no weight_map"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.norm.weight"), r"1 missing tensors: model\.norm\.weight$"),
        (lambda w: w.update(extra=torch.zeros(3)), r"1 unexpected tensors: extra$"),
        (
            lambda w: w.update({"model.norm.weight": torch.ones(13)}),
            r"1 tensors of the wrong size: model\.norm\.weight \(13,\), expected \(12,\)$",
        ),
    ],
)
def test_weights_that_do_not_match_the_config(folder, change, message):
    change_weights(folder, change)
    with pytest.raises(CheckpointError, match=r"do not match its config.json: " + message):
        load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(folder, value):
    change_weights(folder, lambda w: w["model.layers.1.mlp.up_proj.weight"][2, 3].fill_(value))
    with pytest.raises(NumericsError, match=r"model\.layers\.1\.mlp\.up_proj\.weight in .* NaN or infinity"):
        load(folder)


def test_weights_beyond_the_dtype_asked_for(folder):
    change_weights(folder, lambda w: w["model.norm.weight"][2].fill_(1e6))
    load(folder)
    with pytest.raises(NumericsError, match=r"model\.norm\.weight in .* torch\.float16"):
        load(folder, dtype=torch.float16)


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles(folder, llama, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only pickled weights \(pytorch_model.bin\).*--allow-pickle"):
        load(folder)
    torch.testing.assert_close(logits_of(load(folder, allow_pickle=True)), logits_of(llama), rtol=0, atol=0)

    torch.save(tensors | {"exploit": Exploit(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"cannot load"):
        load(folder, allow_pickle=True)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Exploit(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match=r"cannot load"):
        load(folder, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_safetensors_are_preferred_to_pickles(folder, llama):
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    torch.testing.assert_close(logits_of(load(folder, allow_pickle=True)), logits_of(llama), rtol=0, atol=0)
