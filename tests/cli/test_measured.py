"""What a compression cost, from the measurement to the record, the card and the report."""

import json
import math
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from neuromeld import EvaluationRequest, evaluate
from neuromeld.report.record import with_measurements


@pytest.fixture
def compressed(cli, checkpoint, text, tmp_path):
    out = tmp_path / "small"
    options = ["--ffn-size", 16, "--calibration", text, "--calibration-tokens", 1024, "--seqlen", 32]
    assert cli("compress", checkpoint, out, *options, "--json")[0] == 0
    return out


def record_of(folder):
    return json.loads((folder / "record.json").read_text())


def test_compress_measures_what_evaluate_does(cli, compressed, checkpoint, text):
    (measured,) = record_of(compressed)["evaluation"]
    tokens = measured["protocol"]["windows"] * 32
    _, stdout, _ = cli("evaluate", checkpoint, compressed, "--text", text, "--tokens", tokens, "--seqlen", 32, "--json")
    dense, smaller = json.loads(stdout)["models"].values()
    assert measured["perplexity_before"] == pytest.approx(dense["perplexity"], rel=1e-5)
    assert measured["perplexity"] == pytest.approx(smaller["perplexity"], rel=1e-5)
    assert measured["protocol"] == smaller["protocol"]
    assert dense["perplexity"] != smaller["perplexity"]
    phases = record_of(compressed)["seconds_by_phase"]
    assert phases.keys() == {
        "reading model and data", "looking at both models", "feed-forward networks", "writing and verifying"
    }  # fmt: skip
    assert sum(phases.values()) <= record_of(compressed)["seconds"]
    passes = record_of(compressed)["passes_by_phase"]
    assert passes.keys() == phases.keys()
    assert all(found > 0 for found in passes.values())


def test_the_library_measures_what_the_command_does(cli, checkpoint, text):
    options = ["--text", text, "--tokens", 320, "--seqlen", 32]
    found = json.loads(cli("evaluate", checkpoint, *options, "--json")[1])
    del found["peak_rss_bytes"]
    request = EvaluationRequest(text=text, tokens=320, seqlen=32)
    assert evaluate([str(checkpoint)], request) == {str(checkpoint): found}


def test_the_loss_on_several_texts_is_shown_and_saved_for_each(cli, compressed, checkpoint, text, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(Path(text.removeprefix("file:")).read_text().replace("w", "w1"))
    options = ["--text", f"{text},file:{other}", "--tokens", 320, "--seqlen", 32, "--save"]
    code, stdout, _ = cli("evaluate", checkpoint, compressed, *options)
    assert code == 0
    assert "excess loss" in stdout
    measured = record_of(compressed)["evaluation"]
    assert [entry["protocol"]["source"] for entry in measured] == [text, f"file:{other}"]
    assert f"{math.log(measured[1]['perplexity'] / measured[1]['perplexity_before']):.4f}" in stdout
    results = ModelCard.load(compressed / "README.md").data.eval_results
    assert [result.metric_value for result in results] == [entry["perplexity"] for entry in measured]
    assert (compressed / "report.html").read_text().count(str(other)) >= 2


def test_saved_numbers_are_the_same_in_record_card_and_report(cli, compressed, checkpoint, text):
    options = ["--text", text, "--tokens", 320, "--seqlen", 32]
    code, stdout, _ = cli("evaluate", checkpoint, compressed, *options, "--save", "--json")
    assert code == 0
    dense, smaller = json.loads(stdout)["models"].values()
    (measured,) = record_of(compressed)["evaluation"]
    assert (measured["perplexity_before"], measured["perplexity"]) == (dense["perplexity"], smaller["perplexity"])
    (result,) = ModelCard.load(compressed / "README.md").data.eval_results
    assert result.metric_value == smaller["perplexity"]
    assert result.metric_args == smaller["protocol"]
    assert f"{smaller['perplexity']:.3f}" in (compressed / "report.html").read_text()


def test_looking_can_be_left_out(cli, checkpoint, tmp_path, text):
    out = tmp_path / "small"
    options = ["--ffn-size", 16, "--calibration", text, "--calibration-tokens", 1024, "--seqlen", 32, "--no-evaluate"]
    assert cli("compress", checkpoint, out, *options)[0] == 0
    assert not {"evaluation", "samples"} & record_of(out).keys()


def test_save_is_for_what_compress_wrote(cli, checkpoint):
    code, _, stderr = cli("evaluate", checkpoint, "--save")
    assert (code, "give the original model first" in stderr) == (2, True)
    code, _, stderr = cli("evaluate", checkpoint, checkpoint, "--save")
    assert (code, "record.json cannot be read" in stderr) == (5, True)


def test_newer_numbers_replace_those_of_the_same_text():
    def found(perplexity, source, **more):
        protocol = {"source": source, "split": "evaluation", "sha256": source}
        return {"perplexity": perplexity, "tokens": 9, "protocol": protocol} | more

    scores = {"tasks": {"t": {"accuracy": 0.5}}}
    record = with_measurements({"kept_ratio": 0.8}, found(10, "a"), found(20, "a"))
    record = with_measurements(record, found(11, "b"), found(21, "b"))
    retained = {"retained_performance": {"ratio": 0.8}}
    after = found(22, "a") | {"tasks": {"t": {"accuracy": 0.4, "retained": {"ratio": 0.8}}}} | retained
    record = with_measurements(record, found(12, "a") | scores, after)
    assert [(e["protocol"]["source"], e["perplexity_before"], e["perplexity"]) for e in record["evaluation"]] == [
        ("a", 12, 22),
        ("b", 11, 21),
    ]
    assert record["tasks"]["t"] == {"accuracy": 0.4, "accuracy_before": 0.5, "retained": {"ratio": 0.8}}
    assert record["retained_performance"] == {"ratio": 0.8}
    assert record["kept_ratio"] == 0.8


PICTURES = {
    "principal": (["--hidden-size", 12], 12),
    "merged by layer": (
        [
            "--hidden-size",
            12,
            "--hidden-selector",
            "mean_abs_activation",
            "--hidden-merge",
            "transport",
            "--hidden-basis",
            "layer",
        ],
        12,
    ),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_record_holds_the_pictures_of_the_stream(kind, cli, checkpoint, text, tmp_path):
    options, width = PICTURES[kind]
    settings = ["--calibration", text, "--calibration-tokens", 1024, "--seqlen", 32, "--native", "--no-evaluate"]
    assert cli("compress", checkpoint, tmp_path / "out", *options, *settings, "--json")[0] == 0
    for run in record_of(tmp_path / "out")["runs"]:
        spectrum = dict(run["spectrum"])
        assert list(spectrum.values()) == sorted(spectrum.values())
        assert spectrum[24] == 1
        if kind == "principal":
            assert spectrum[width] == pytest.approx(run["energy_kept"], abs=1e-4)
        else:
            assert run["energy_kept"] < spectrum[width]  # no other directions of this number keep more
            assert (len(run["merges"]["blocks"]), len(run["merges"]["blocks"][0])) == (24, width)
            assert run["transport"]["marginal_error"] < 1e-5


def test_record_holds_where_hidden_neurons_went(cli, checkpoint, text, tmp_path):
    options = ["--ffn-size", 16, "--ffn-merge", "transport", "--calibration", text, "--calibration-tokens", 1024]
    assert cli("compress", checkpoint, tmp_path / "out", *options, "--seqlen", 32, "--no-evaluate", "--json")[0] == 0
    for entry in record_of(tmp_path / "out")["ffn"]:
        assert len(entry["merges"]["merged"]) == 8
        assert (len(entry["merges"]["blocks"]), len(entry["merges"]["blocks"][0])) == (24, 16)
    assert "Where neurons go: layer 0" in (tmp_path / "out" / "report.html").read_text()


def test_the_request_of_speed_is_the_one_asked_for(cli, checkpoint, text):
    options = ["--text", text, "--tokens", 64, "--seqlen", 32, "--json"]
    asked = ["--speed", "--batch-size", 2, "--prompt-tokens", 16, "--new-tokens", 4]
    code, out, _ = cli("evaluate", checkpoint, *options, *asked)
    assert code == 0
    speed = json.loads(out)["speed"]
    assert {key: speed["protocol"][key] for key in ("batch_size", "prompt_tokens", "new_tokens")} == {
        "batch_size": 2, "prompt_tokens": 16, "new_tokens": 4
    }  # fmt: skip
    assert speed["decode"]["low"] <= speed["decode"]["median"] <= speed["decode"]["high"]
    code, _, err = cli("evaluate", checkpoint, *options, "--batch-size", 2)
    assert code == 2
    assert "are for --speed" in err
