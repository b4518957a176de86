"""One job in two processes: the result of one process, or nothing."""

import contextlib
import json
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch
from accelerate import debug_launcher
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import processes
from cli.commands import CALIBRATION, leftovers
from neuromeld.checkpoint import load_model
from neuromeld.cli import main

FLOAT64_SUMS = 1e-9
RECIPES = {
    "neurons": ["--num-kv-heads", 1, "--ffn-size", 12],
    "stream": [
        "--hidden-size",
        16,
        "--hidden-selector",
        "mean_abs_activation",
        "--hidden-merge",
        "transport",
        "--hidden-refit",
    ],
    "learned directions": ["--hidden-size", 16, "--hidden-selector", "learned"],
    "a basis for every layer": ["--hidden-size", 16, "--hidden-basis", "layer"],
    "learned": ["--num-kv-heads", 1, "--heads-selector", "learned", "--ffn-size", 12, "--ffn-selector", "learned"],
    "learned by layer": ["--ffn-size", 12, "--ffn-selector", "learned", "--ffn-by-layer"],
    "taylor": ["--ffn-size", 12, "--ffn-selector", "taylor", "--ffn-by-layer"],
    "measured levels": ["--ffn-size", 12, "--ffn-selector", "obs", "--ffn-by-layer"],
    "merge": ["--share-ffns", 2, "--native"],
    "budget": ["--keep", 0.8],
}


def by_torchrun(*arguments: object) -> str:
    """What two processes print that torchrun's agent has started, by forks of this one."""
    group = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 2}
    config = LaunchConfig(
        **group, rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="fork", max_restarts=0
    )
    agent = elastic_launch(config, _main)
    code, stdout, stderr = processes.Job(lambda: agent(*map(str, arguments))).wait()
    assert code == 0, stderr
    return stdout


def by_accelerate(*arguments: object) -> str:
    """What two processes print that accelerate has started, by forks of this one."""
    job = processes.Job(lambda: debug_launcher(_main, tuple(map(str, arguments)), num_processes=2))
    code, stdout, stderr = job.wait()
    assert code == 0, stderr
    return stdout


def _main(*arguments: str) -> None:
    sys.argv = ["neuromeld", *arguments]
    with contextlib.suppress(SystemExit):  # the agent takes any exception for a failure
        main()


def ranks(
    *arguments: object, first_ends: processes.Moment | None = None, ends: processes.Moment | None = None
) -> list[tuple[int, str, str]]:
    """How two processes end that are told of each other as torchrun tells them; `ends` is for the second."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        group = {"WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": free.getsockname()[1]}
    started = [processes.command(*arguments, at=at, RANK=rank, **group) for rank, at in enumerate([first_ends, ends])]
    return [job.wait() for job in started]


def errors(record: dict) -> list[float]:
    """Every error on held-out tokens that was measured, and every loss."""
    fits = [*record.get("ffn", []), *record.get("heads", []), *record.get("refits", {}).values()]
    fits += record.get("window_refits", [])
    losses = [window["loss"] for window in record.get("windows", [])]
    looks = record.get("ffn_learned", {}).get("looks", []) + record.get("directions_learned", [])
    losses += [look["held_out"] for look in looks if look["held_out"] is not None]
    return [fit[key] for fit in fits for key in ("error_before", "error_after")] + losses


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_processes_do_what_one_does(recipe, cli, checkpoint, text, tmp_path):
    arguments = [*RECIPES[recipe], "--calibration", text, *CALIBRATION, "--json"]
    code, stdout, _ = cli("compress", checkpoint, tmp_path / "one", *arguments)
    assert code == 0
    one = json.loads(stdout)
    command = ["compress", checkpoint, tmp_path / "two", *arguments]
    if recipe == "neurons":
        stdout = by_torchrun(*command)
    else:
        (code, stdout, stderr), second = ranks(*command)
        assert code == second[0] == 0, stderr + second[2]
    two = json.loads(stdout)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["sizes_after"] == two["sizes_after"]
    assert errors(two) == pytest.approx(errors(one), rel=FLOAT64_SUMS)
    assert errors(one) or recipe in ("budget", "a basis for every layer")
    # Logits, not weights: a random model's stream has directions of equal variance, whose basis is free.
    ids = torch.arange(24).reshape(2, 12)
    logits = [load_model(tmp_path / name, dtype=None, device="cpu").eval()(ids).logits for name in ("one", "two")]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-5)
    assert sorted(leftovers(tmp_path)) == ["one", "two"]


def test_a_process_that_dies_stops_the_others_and_nothing_is_written(checkpoint, text, tmp_path):
    command = ["compress", checkpoint, tmp_path / "out", *RECIPES["neurons"], "--calibration", text, *CALIBRATION]
    # The second one dies where it opens the calibration text, when the first has joined it already.
    first, second = ranks(*command, ends=("open", Path(text).name, signal.SIGKILL))
    assert second[0] == -signal.SIGKILL, second[2]
    assert first[0] == 6, first[2]
    assert "another process of this job has ended" in first[2]
    assert "Traceback" not in first[2]
    assert leftovers(tmp_path) == []


def test_recovery_in_two_processes_is_that_of_one(cli, checkpoint, text, tmp_path):
    asked = ["--train", text, "--steps", 6, "--batch-tokens", 128, "--seqlen", 16, "--accumulate", 2]
    asked += ["--from", checkpoint, "--learning-rate", 1e-3, "--rates", "1e-3,1e-2", "--no-bf16", "--json"]
    code, _, _ = cli("compress", checkpoint, tmp_path / "small", "--ffn-size", 12, "--calibration", text, *CALIBRATION)
    assert code == 0
    code, stdout, stderr = cli("recover", tmp_path / "small", tmp_path / "one", *asked)
    assert code == 0, stderr
    two = by_torchrun("recover", tmp_path / "small", tmp_path / "two", *asked)
    first, both = (json.loads(printed)["recovery"] for printed in (stdout, two))
    assert (both["processes"], both["best_step"]) == (2, first["best_step"])
    losses = [[point["loss"] for point in told["loss_curve"] + told["looks"]] for told in (first, both)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    weights = [load_model(tmp_path / name, dtype=None, device="cpu").state_dict() for name in ("one", "two")]
    assert all(torch.allclose(weights[1][name], value, atol=1e-5) for name, value in weights[0].items())
    assert sorted(leftovers(tmp_path)) == ["one", "small", "two"]


def test_a_sharded_recovery_is_that_of_one_process_and_resumes(cli, checkpoint, text, tmp_path, monkeypatch):
    small = tmp_path / "small"
    cli("compress", checkpoint, small, "--share-ffns-at", "1-2", "--calibration", text, *CALIBRATION)
    asked = ["--train", text, "--steps", 6, "--batch-tokens", 64, "--seqlen", 16, "--learning-rate", 1e-2]
    asked += ["--from", checkpoint, "--no-bf16", "--json"]
    code, stdout, stderr = cli("recover", small, tmp_path / "one", *asked)
    assert code == 0, stderr
    monkeypatch.setattr("neuromeld.recovery.loop.CHECKPOINT_SECONDS", 0.0)
    command = ["recover", small, tmp_path / "two", *asked, "--shard"]
    first, second = ranks(*command, first_ends=("os.rename", r"/two$", signal.SIGKILL))
    assert (first[0], second[0]) == (-signal.SIGKILL, 6), first[2] + second[2]
    one, two = (json.loads(printed)["recovery"] for printed in (stdout, by_accelerate(*command)))
    losses = [[point["loss"] for point in told["loss_curve"] + told["looks"]] for told in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert one["parameters_trained"] == two["parameters_trained"]
    assert two["resumed_from"] == 5
    weights = [load_model(tmp_path / name, dtype=None, device="cpu").state_dict() for name in ("one", "two")]
    assert all(torch.allclose(weights[1][name], value, atol=1e-5) for name, value in weights[0].items())
    assert sorted(leftovers(tmp_path)) == ["one", "small", "two"]


def test_recovery_in_two_processes_goes_on_where_it_stopped(checkpoint, text, tmp_path):
    asked = ["recover", checkpoint, tmp_path / "out", "--train", text, "--steps", 4, "--batch-tokens", 64]
    asked += ["--seqlen", 16, "--learning-rate", 1e-3, "--rates", "1e-3,1e-2", "--no-bf16", "--json"]
    first, second = ranks(*asked, first_ends=("os.rename", "rate 0.01", signal.SIGKILL))
    assert (first[0], second[0]) == (-signal.SIGKILL, 6), first[2] + second[2]
    first, second = ranks(*asked)  # the first rate is known to one of them, and the other waits for it
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert len(json.loads(first[1])["recovery"]["rates"]) == 2


def test_what_one_process_alone_can_do_is_refused_in_two(checkpoint, text, tmp_path):
    asked = ["recover", checkpoint, tmp_path / "out", "--from", checkpoint, "--train", text, "--batch-tokens", 64]
    first, second = ranks(*asked, "--seqlen", 16, "--steps", 2, "--layerwise-tokens", 1024)
    assert first[0] == second[0] == 2
    assert "one process" in first[2] + second[2]
    first, second = ranks(*asked, "--seqlen", 64, "--steps", 2)
    assert "in 2 processes must divide the 1 examples" in first[2]
