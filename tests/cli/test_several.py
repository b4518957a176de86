"""Several budgets, and a loss that is allowed, as a user meets them."""

import json
import math
import signal

import pytest

import processes
from cli.commands import CALIBRATION, leftovers


@pytest.fixture
def command(checkpoint, text, tmp_path):
    return lambda *options: ["compress", checkpoint, tmp_path / "out", *options, "--calibration", text, *CALIBRATION]


def test_each_budget_has_its_folder(cli, command, tmp_path):
    code, stdout, stderr = cli(*command("--keep", "0.8,0.9", "--json"))
    assert code == 0, stderr
    results = json.loads(stdout)["results"]
    assert [result["out"] for result in results] == [str(tmp_path / f"out-{keep}") for keep in (0.9, 0.8)]
    assert sorted(leftovers(tmp_path)) == ["out-0.8", "out-0.9"]
    for keep, result in zip((0.9, 0.8), results, strict=True):
        assert result["kept_ratio"] <= keep
        record = json.loads((tmp_path / f"out-{keep}" / "record.json").read_text())
        assert {"out": result["out"]} | record == result


def test_a_run_that_is_killed_goes_on_from_the_folder_that_it_had_written(cli, command, tmp_path):
    options = command("--keep", "0.9,0.8")
    code, _, stderr = processes.command(*options, at=("os.rename", r"/out-0\.8$", signal.SIGKILL)).wait()
    assert code == -signal.SIGKILL, stderr
    first = (tmp_path / "out-0.9" / "record.json").read_bytes()
    code, _, stderr = cli(*options)
    assert code == 0, stderr
    assert (tmp_path / "out-0.9" / "record.json").read_bytes() == first
    assert sorted(leftovers(tmp_path)) == ["out-0.8", "out-0.9"]


def test_a_loss_that_is_allowed_is_recorded_with_what_held_out_text_says(cli, command):
    code, stdout, stderr = cli(*command("--max-loss", 0.05, "--json"))
    assert code == 0, stderr
    record = json.loads(stdout)
    found, (measured,) = record["max_loss"], record["evaluation"]
    assert found["allowed"] == 0.05
    assert found["validation_loss"] + found["standard_error"] <= 0.05
    held_out = math.log(measured["perplexity"] / measured["perplexity_before"])
    assert found["held_out_loss"] == pytest.approx(held_out)
    assert found["margin"] == pytest.approx(held_out - found["validation_loss"])
    assert len(found["tried"]) > 1
    assert found["unit"] == "nats"


def test_a_share_of_accuracy_may_be_lost_and_a_plan_says_what_is(cli, checkpoint, text):
    settings = ["--calibration", text, *CALIBRATION]
    code, stdout, stderr = cli("plan", checkpoint, "--max-loss", "60%", "--json", *settings)
    assert code == 0, stderr
    found = json.loads(stdout)["max_loss"]
    assert (found["allowed"], found["unit"]) == (0.6, "accuracy")
    assert found["validation_loss"] + found["standard_error"] <= 0.6


MISTAKES = {
    "shares": (["--keep", "0.8,x"], "--keep 0.8,x must be a share, as 0.8, or several, as 0.9,0.8,0.7"),
    "twice": (["--keep", "0.8,0.80"], "names a share twice"),
    "one of them": (["--keep", "0.8,1.2"], "keep=1.2 is outside (0, 1]"),
    "with a loss": (["--keep", "0.8,0.7", "--max-loss", "0.1"], "give one budget"),
    "loss": (["--max-loss", "-1"], "must be a positive number of nats per token"),
    "share of accuracy": (["--max-loss", "two%"], "or a share of the next-token accuracy under 100%, as 2%"),
    "accuracy of other tokens": (
        ["--max-loss", "2%", "--vocab-from", "news-sample"],
        "--vocab-from goes with --max-loss in nats",
    ),
    "memory of nothing": (["--keep", "0.8", "--context", "64"], "this is for --memory SIZE"),
    "memory": (["--memory", "much"], "--memory much must be a size"),
    "memory enough": (["--memory", "1GB"], "which --memory allows: nothing has to be made smaller"),
    "forms": (["--keep", "0.8,0.7", "--format", "gguf"], "--format gguf is for one budget"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_message(cli, command, tmp_path, mistake):
    options, message = MISTAKES[mistake]
    code, _, stderr = cli(*command(*options))
    assert code == 2
    assert message in " ".join(stderr.split())
    assert leftovers(tmp_path) == []


def test_plan_takes_one_budget(cli, checkpoint):
    code, _, stderr = cli("plan", checkpoint, "--keep", "0.9,0.8")
    assert code == 2
    assert "several budgets are for compress" in stderr
