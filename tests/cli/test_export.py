"""`neuromeld export` and `neuromeld serve-check`: what is written, what is said, and what is refused."""

import json

import gguf
import pytest

from cli.commands import CALIBRATION
from neuromeld import parse_recipe
from neuromeld.checkpoint.source import locate
from neuromeld.errors import CheckpointError, UnsupportedModelError, UserInputError
from neuromeld.jobs.compression import CompressionJob
from neuromeld.jobs.export import Exports, export
from neuromeld.jobs.opening import open_job
from neuromeld.jobs.recovered import compress_and_recover
from neuromeld.recovery import parse_recovery
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
        ({"to": "vllm"}, UnsupportedModelError, "stock checkpoint, which needs no export"),
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
    assert "gguf: " in stdout
    reader = gguf.GGUFReader(tmp_path / "out-gguf" / "model-float32.gguf")
    assert reader.get_field("llama.feed_forward_length").contents() == 48


def compressed(folders, out, stage, forms, *, untie=False, trained=None, **settings):
    """The record of a job that writes forms, too; `trained` says how its result is, before."""
    save_text(out.parent / "text.jsonl")
    calibration = {"source": f"file:{out.parent / 'text.jsonl'}", "tokens": 3072, "seqlen": 16}
    recipe = parse_recipe(stage | {"calibration": calibration})
    with open_job(out) as journal:
        exports = Exports(out, forms, untie=untie)
        source = str(folders["stock"])
        job = CompressionJob(locate(source), recipe, out, journal, exports=exports, evaluate=False, **settings)
        return (job.run() if trained is None else compress_and_recover(job, source, parse_recovery(trained)))[1]


BY_LAYER = {"ffn": {"size": [96, 40, 8, 72]}}


def test_forms_appear_with_the_result_and_are_in_its_record(folders, tmp_path):
    said = compressed(folders, tmp_path / "out", BY_LAYER, ("gguf", "gguf:q8_0", "vllm"))["exports"]
    assert list(said) == ["gguf", "gguf:q8_0", "vllm"]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"text.jsonl", "out", "out-gguf", "out-gguf-q8_0", "out-vllm"}
    assert json.loads((tmp_path / "out" / "record.json").read_text())["exports"] == said
    assert json.loads((tmp_path / "out-vllm" / "record.json").read_text())["exported_from"] == str(tmp_path / "out")


def test_a_job_that_ends_while_it_exports_leaves_no_output_and_goes_on(folders, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("neuromeld.checkpoint.export.forms.write_block_configs", interrupt)
        with pytest.raises(KeyboardInterrupt):
            compressed(folders, out, BY_LAYER, ("gguf", "vllm"))
    assert not {path.name for path in tmp_path.iterdir()} & {"out", "out-gguf", "out-vllm"}
    assert compressed(folders, out, BY_LAYER, ("gguf", "vllm"))["steps_recalled"] > 0
    assert (tmp_path / "out-gguf").is_dir()


def test_a_job_that_ends_while_it_exports_what_it_trained_goes_on_there(folders, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("neuromeld.recovery.loop.CHECKPOINT_SECONDS", 0.0)
    training = {"train": f"file:{tmp_path / 'text.jsonl'}", "steps": 2, "batch_tokens": 64, "seqlen": 16, "bf16": False}
    with monkeypatch.context() as patch:
        patch.setattr("neuromeld.checkpoint.export.forms.write_block_configs", interrupt)
        with pytest.raises(KeyboardInterrupt):
            compressed(folders, tmp_path / "out", BY_LAYER, ("gguf", "vllm"), trained=training)
    assert {path.name for path in tmp_path.iterdir()} == {"text.jsonl", ".out.work"}
    monkeypatch.setattr("neuromeld.jobs.compression.compress_model", interrupt)
    record = compressed(folders, tmp_path / "out", BY_LAYER, ("gguf", "vllm"), trained=training)
    assert record["recovery"]["resumed_from"] == 1  # the state behind the last update is not kept
    assert list(record["exports"]) == ["gguf", "vllm"]
    assert record == json.loads((tmp_path / "out" / "record.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"text.jsonl", "out", "out-gguf", "out-vllm"}


def test_a_form_that_fails_leaves_the_result_and_the_others(folders, tmp_path, monkeypatch):
    def fail(*_):
        raise CheckpointError("something is wrong")

    monkeypatch.setattr("neuromeld.checkpoint.export.forms.compare_gguf", fail)
    said = compressed(folders, tmp_path / "out", BY_LAYER, ("gguf", "vllm"))["exports"]
    assert said["gguf"] == "not written: something is wrong"
    assert {path.name for path in tmp_path.iterdir()} == {"text.jsonl", "out", "out-vllm"}


def test_a_stock_result_needs_no_form_of_an_engine_that_loads_it(folders, tmp_path):
    said = compressed(folders, tmp_path / "out", {"ffn": {"ratio": 0.5}}, ("vllm",))["exports"]
    assert "as it is" in said["vllm"]
    assert not (tmp_path / "out-vllm").exists()


SHARED = {"share_ffns": {"window": [0, 1]}}


def test_what_a_form_cannot_hold_is_refused_before_the_work(folders, tmp_path):
    with pytest.raises(UnsupportedModelError, match="--untie"):
        compressed(folders, tmp_path / "out", SHARED, ("gguf",))


def test_shared_ffns_are_exported_as_full_copies_where_that_is_asked_for(folders, tmp_path):
    said = compressed(folders, tmp_path / "out", SHARED, ("gguf",), untie=True)["exports"]
    assert "compared" in said["gguf"] or "log-probabilities" in said["gguf"]
    reader = gguf.GGUFReader(tmp_path / "out-gguf" / "model-float32.gguf")
    assert reader.get_field("llama.feed_forward_length").contents() == 96


def test_copies_without_a_form_are_refused(cli, folders, tmp_path):
    code, _, stderr = cli("compress", folders["stock"], tmp_path / "out", "--ffn-ratio", 0.5, "--untie")
    assert (code, "--untie is for --format" in stderr) == (2, True)
