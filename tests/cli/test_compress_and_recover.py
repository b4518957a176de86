"""`neuromeld compress --recover`: one command, one record, one job that can go on."""

import json

import pytest
from safetensors.torch import load_file

NARROW = ["--ffn-ratio", 0.5, "--calibration-tokens", 512, "--seqlen", 32, "--no-evaluate"]


def recipe(tmp_path, text, **changes):
    path = tmp_path / "mine.yaml"
    settings = {"train": text, "steps": 6, "batch_tokens": 64, "seqlen": 16, "distill_weight": 1.0, "bf16": False}
    path.write_text(json.dumps(settings | changes))
    return path


def test_one_record_tells_of_both(cli, checkpoint, text, tmp_path):
    asked = ["compress", checkpoint, tmp_path / "out", *NARROW, "--calibration", text]
    code, stdout, stderr = cli(*asked, "--recover", recipe(tmp_path, text))
    assert code == 0, stderr
    assert "by training" in stdout
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["kept_ratio"] < 1
    assert record["recovery"]["settings"]["original"] == str(checkpoint)
    assert len(record["recovery"]["loss_curve"]) == 6
    assert "Recovery" in (tmp_path / "out" / "report.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "out"]

    alone = tmp_path / "alone"
    assert cli("compress", checkpoint, alone, *NARROW, "--calibration", text)[0] == 0
    options = ["--recipe", tmp_path / "mine.yaml", "--from", checkpoint]
    assert cli("recover", alone, tmp_path / "then", *options)[0] == 0
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "then"))
    assert all((first[name] == second[name]).all() for name in first)


def test_a_recovery_that_failed_goes_on_from_the_compressed_checkpoint(cli, checkpoint, text, tmp_path):
    asked = ["compress", checkpoint, tmp_path / "out", *NARROW, "--calibration", text, "--recover", "mine.yaml"]
    recipe(tmp_path, text)
    work = tmp_path / ".out.work"
    blocked = [*asked[:-1], recipe(tmp_path, text, tokens=10, steps=None)]
    code, _, stderr = cli(*blocked)
    assert code == 2
    assert "less than one update" in stderr
    assert not work.exists()
    assert not (tmp_path / "out").exists()


def test_a_form_that_cannot_hold_the_result_is_refused_before_the_work(cli, checkpoint, text, tmp_path):
    asked = ["compress", checkpoint, tmp_path / "out", "--share-ffns", 2, "--calibration", text, "--format", "gguf"]
    code, _, stderr = cli(*asked, "--recover", recipe(tmp_path, text))
    assert code == 3
    assert "--untie" in stderr
    assert {path.name for path in tmp_path.iterdir()} == {"mine.yaml"}


@pytest.mark.parametrize("length", ["soon", "30 parsecs", "1.5.2h", "-3min"])
def test_lengths_that_mean_nothing(cli, checkpoint, text, tmp_path, length):
    asked = ["compress", checkpoint, tmp_path / "out", *NARROW, "--calibration", text]
    code, stdout, stderr = cli(*asked, f"--recover={length}")
    assert code == 2
    assert "Available: distil" in stderr
    assert "or give a time, as 30min, or tokens, as 2M" in stderr
    assert stdout == ""
    assert not list(tmp_path.iterdir())


def test_help_names_it(cli):
    assert "--recover" in cli("compress", "--help")[1]


@pytest.mark.parametrize(("flag", "value", "command"), [("--recover", "1M", "recover"), ("--format", "gguf", "export")])
def test_several_budgets_are_trained_and_exported_one_by_one(cli, checkpoint, tmp_path, flag, value, command):
    code, _, stderr = cli("compress", checkpoint, tmp_path / "out", "--keep", "0.9,0.8", flag, value)
    assert code == 2
    assert f"`neuromeld {command}` takes each of the folders" in stderr
    assert not list(tmp_path.iterdir())
