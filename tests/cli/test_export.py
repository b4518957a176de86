"""`neuromeld export` and `neuromeld serve-check`: what is written, what is said, and what is refused."""

import json

import gguf
import pytest

from cli.commands import CALIBRATION
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.jobs.export import export
from tiny import save_text
from unit.checkpoint.export.models import build, ragged, save, shared


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoints: with widths by layer, with shared FFNs, and a stock one."""
    root = tmp_path_factory.mktemp("models")
    models = {"ragged": ragged("llama"), "shared": shared(), "stock": build("llama")}
    return {name: save(model, root / name) for name, model in models.items()}


def test_an_export_says_how_it_was_compared_and_can_be_replaced(folders, tmp_path):
    for _ in range(2):
        result = export(str(folders["ragged"]), tmp_path / "out", "gguf", force=True)
    assert "every tensor compared" in result.checked or "log-probabilities" in result.checked
    assert {path.name for path in result.out.iterdir()} == {"model-float32.gguf", "record.json"}


def test_a_folder_for_vllm_has_tokenizer_and_the_class_of_its_config(folders, tmp_path):
    export(str(folders["ragged"]), tmp_path / "out", "vllm")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "nemotron_nas.py", "tokenizer.json", "record.json"} <= names


def test_shared_ffns_are_refused_until_copies_are_asked_for(folders, tmp_path):
    with pytest.raises(UnsupportedModelError, match="--untie"):
        export(str(folders["shared"]), tmp_path / "out", "gguf")
    export(str(folders["shared"]), tmp_path / "out", "gguf", untie=True)
    reader = gguf.GGUFReader(tmp_path / "out" / "model-float32.gguf")
    assert reader.get_field("general.architecture").contents() == "llama"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"to": "onnx"}, UserInputError, "unknown form 'onnx'"),
        ({"to": "gguf", "quantize": "q9"}, UserInputError, "unknown type 'q9'"),
        ({"to": "vllm", "quantize": "q8_0"}, UserInputError, "is for --to gguf"),
        ({"to": "vllm"}, UnsupportedModelError, "stock checkpoint, which is loaded as it is"),
    ],
)
def test_what_cannot_be_exported_is_one_message(folders, tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        export(str(folders["stock"]), tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_serve_check_answers_for_every_engine(folders, cli):
    answer = json.loads(cli("serve-check", folders["ragged"], "--json")[1])["engines"]
    how = {one["engine"]: one["how"] for one in answer}
    assert how["vLLM"] == "after `neuromeld export --to vllm`"
    assert how["llama.cpp"] == "after `neuromeld export --to gguf`"


def test_compress_exports_what_it_wrote(cli, folders, tmp_path):
    save_text(tmp_path / "text.jsonl")
    options = ["--ffn-ratio", "0.5", "--calibration", f"file:{tmp_path / 'text.jsonl'}", *CALIBRATION, "--no-evaluate"]
    code, _, stderr = cli("compress", folders["stock"], tmp_path / "out", *options, "--format", "gguf,onnx")
    assert (code, "unknown form 'onnx'" in stderr) == (2, True)
    code, stdout, _ = cli("compress", folders["stock"], tmp_path / "out", *options, "--format", "gguf")
    assert code == 0
    assert "gguf in" in stdout
    reader = gguf.GGUFReader(tmp_path / "out-gguf" / "model-float32.gguf")
    assert reader.get_field("llama.feed_forward_length").contents() == 48
