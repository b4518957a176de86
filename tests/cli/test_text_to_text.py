"""The command line on encoder-decoders: a model, and a file of pairs or a folder of speech, become a smaller model."""

import json

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from transformers import AutoModelForSeq2SeqLM, AutoModelForSpeechSeq2Seq, AutoProcessor

from cli.commands import check_grid
from contract.families import FAMILIES, build, randomise
from neuromeld.archs.classes import stock_class
from neuromeld.checkpoint import load_model
from neuromeld.evaluation import unique_parameters
from unit.modalities.text_to_text import tiny_processor, tiny_tokenizer


@pytest.fixture
def translator(tmp_path):
    build("marian", dtype=torch.float32).save_pretrained(tmp_path / "marian")
    tiny_tokenizer().save_pretrained(tmp_path / "marian")
    lines = [f"w{5 + i % 60:02} w{9 + i % 50:02}\tw{6 + i % 70:02} w{7 + i % 40:02}" for i in range(300)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines))
    return tmp_path / "marian", f"file:{tmp_path / 'pairs.tsv'}"


@pytest.fixture
def listener(tmp_path):
    config = FAMILIES["whisper"]()
    config.max_source_positions = 50
    randomise(stock_class(config)._from_config(config)).save_pretrained(tmp_path / "whisper")
    tiny_processor().save_pretrained(tmp_path / "whisper")
    folder = tmp_path / "speech"
    folder.mkdir()
    for i in range(60):
        samples = np.random.default_rng(i).integers(-9999, 9999, 9000)
        wavfile.write(folder / f"{i}.wav", 16000, samples.astype(np.int16))
    (folder / "transcripts.tsv").write_text("".join(f"{i}.wav\tspoken words\n" for i in range(60)))
    return tmp_path / "whisper", f"file:{folder}"


def test_merged_translator_generates(cli, translator, tmp_path):
    model, pairs = translator
    code, _, err = cli(
        "compress", model, tmp_path / "out", "--share-ffns", 2, "--calibration", pairs, "--calibration-tokens", 800
    )
    assert code == 0, err
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["calibration"]["tokens"] >= 700
    assert len(record["windows"]) == 3
    smaller = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    assert unique_parameters(smaller) == record["parameters_after"] < record["parameters_before"]
    ids = tiny_tokenizer()(["w05 w09"], return_tensors="pt")["input_ids"]
    assert smaller.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False).shape == (1, 5)


def test_merged_listener_listens(cli, listener, tmp_path):
    model, speech = listener
    code, _, err = cli("compress", model, tmp_path / "out", "--share-ffns", 2, "--calibration", speech)
    assert code == 0, err
    smaller = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "out")
    features = AutoProcessor.from_pretrained(tmp_path / "out")(
        np.zeros(16000), sampling_rate=16000, return_tensors="pt"
    )
    assert len(smaller.generate(features["input_features"], max_new_tokens=4, do_sample=False)) == 1


@pytest.mark.parametrize("kind", ["translator", "listener"])
def test_merged_model_recovers(cli, kind, tmp_path, request):
    model, data = request.getfixturevalue(kind)
    assert cli("compress", model, tmp_path / "small", "--share-ffns", 2, "--calibration", data)[0] == 0
    options = ["--train", data, "--steps", 10, "--batch-tokens", 512, "--learning-rate", 0.003, "--json"]
    code, out, err = cli("recover", tmp_path / "small", tmp_path / "out", *options, "--from", model)
    assert code == 0, err
    record = json.loads(out)
    held_out = record["recovery"]["held_out"]
    assert held_out["loss_after"] < 0.9 * held_out["loss_before"]
    recovered = load_model(tmp_path / "out", dtype=None, device="cpu")
    assert unique_parameters(recovered) == record["parameters_after"] < record["parameters_before"]


def test_calibration_data_must_be_named(cli, translator, listener, tmp_path):
    for model in (translator[0], listener[0]):
        code, _, err = cli("compress", model, tmp_path / "out", "--share-ffns", 2)
        assert code == 2
        assert "no usual calibration data" in " ".join(err.split())
        assert not (tmp_path / "out").exists()


def test_models_are_evaluated_side_by_side(cli, translator, listener):
    for (model, data), kind, score in ((translator, "pairs", "chrf"), (listener, "speech", "word_error_rate")):
        code, out, err = cli(
            "evaluate", model, f"{model}/", f"--{kind}", data, "--num-examples", 3, "--device", "cpu", "--json"
        )
        assert code == 0, err
        first, second = json.loads(out)["models"].values()
        assert first == second
        assert first["protocol"]["examples"] == 3
        assert first[score] >= 0
        assert "greedy" in first["protocol"]["decoding"]


def test_data_of_another_kind_is_refused(cli, translator, listener):
    code, _, err = cli("evaluate", translator[0], "--speech", listener[1])
    assert code == 2
    assert "--speech is for models that read speech" in " ".join(err.split())
    code, _, err = cli("evaluate", translator[0])
    assert code == 2
    assert "--pairs" in err
    for (model, data), kind in ((translator, "pairs"), (listener, "speech")):
        code, _, err = cli("evaluate", model, f"--{kind}", data, "--tokens", 64)
        assert code == 2
        assert "--tokens is for models that read tokens" in " ".join(err.split())


def test_speech_is_calibrated_on_without_windows(cli, listener, tmp_path):
    model, speech = listener
    options = ["--share-ffns", 2, "--calibration", speech, "--seqlen", 64]
    code, _, err = cli("compress", model, tmp_path / "out", *options)
    assert code == 2
    assert "seqlen=64 is for text" in err


def test_layers_of_two_stacks_are_not_compared(cli, translator):
    model, pairs = translator
    code, _, err = cli("similarity", model, "--calibration", pairs, "--calibration-tokens", 600)
    assert code == 3
    assert "2 stacks, which read different tokens" in " ".join(err.split())


@pytest.mark.parametrize(("kind", "data"), [("translator", "pairs"), ("listener", "speech")])
def test_a_grid_measures_pairs_and_speech(cli, kind, data, tmp_path, request):
    model, source = request.getfixturevalue(kind)
    check_grid(cli, tmp_path, model, data, source, "--num-examples")
