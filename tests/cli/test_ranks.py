"""One job in two processes: the result of one process, or nothing."""

import contextlib
import json
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch
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
    "a basis for every layer": ["--hidden-size", 16, "--hidden-basis", "layer"],
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


def _main(*arguments: str) -> None:
    sys.argv = ["neuromeld", *arguments]
    with contextlib.suppress(SystemExit):  # the agent takes any exception for a failure
        main()


def ranks(*arguments: object, ends: tuple[str, str, signal.Signals] | None = None) -> list[tuple[int, str, str]]:
    """How two processes end that are told of each other as torchrun tells them; `ends` is for the second."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        group = {"WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": free.getsockname()[1]}
    started = [processes.command(*arguments, at=at, RANK=rank, **group) for rank, at in enumerate([None, ends])]
    return [job.wait() for job in started]


def errors(record: dict) -> list[float]:
    """Every error on held-out tokens that was measured, and every loss."""
    fits = [*record.get("ffn", []), *record.get("heads", []), *record.get("refits", {}).values()]
    fits += record.get("window_refits", [])
    losses = [window["loss"] for window in record.get("windows", [])]
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
