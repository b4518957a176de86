"""The order of a training: its rates, its looks at held-out data, and the weights that it takes in the end."""

import math

import pytest
import torch
from safetensors.torch import load_file

from neuromeld.errors import NumericsError
from neuromeld.recovery import loop, parse_recovery, recover
from neuromeld.recovery.rates import SHARE
from neuromeld.recovery.schedule import rate_of


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    monkeypatch.setattr(loop, "LOOK_TOKENS", 0)


def rates(**changes):
    settings = parse_recovery({"steps": 6, "learning_rate": 0.01} | changes)
    return [rate_of(settings, step) for step in range(6)]


def test_the_rate_goes_down_to_its_end_and_stays():
    found = rates(schedule="linear", warmup=1, decay_steps=4, final_learning_rate=0.001)
    assert found == pytest.approx([0.005, 0.01, 0.007, 0.004, 0.001, 0.001])


def test_warm_up_in_steps_and_as_a_share_and_every_schedule():
    assert rates(schedule="constant", warmup=0.5) == rates(schedule="constant", warmup=3)
    assert rates(schedule="constant", warmup=3) == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    assert rates(schedule="cosine") == pytest.approx([0.005 * (1 + math.cos(math.pi * t / 6)) for t in range(6)])
    assert rates(schedule="inverse_sqrt", warmup=2)[2:] == pytest.approx([0.01 / (1 + t / 2) ** 0.5 for t in range(4)])


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_the_best_weights_are_kept_and_training_stops_when_it_does_not_get_better(stock, settings, tmp_path):
    """At a rate that first helps and then ruins; the weights are those of a run that ends at the best look."""
    chosen = settings(steps=40, learning_rate=0.3, patience=2, clip=1e9)
    found = recover(str(stock), chosen, tmp_path / "out").record["recovery"]
    losses = {look["step"]: look["loss"] for look in found["looks"]}
    best = min(losses, key=losses.get)
    assert found["best_step"] == best < max(losses)
    assert max(losses) == min(40, best + 2 * 4)
    assert found["held_out"]["loss_after"] == pytest.approx(losses[best], rel=1e-6)
    assert found["tokens_seen"] == max(losses) * 128
    if best == 0:
        assert all(torch.equal(value, weights(stock)[name]) for name, value in weights(tmp_path / "out").items())


def test_a_run_that_only_harms_leaves_the_weights(stock, settings, tmp_path):
    found = recover(str(stock), settings(steps=3, learning_rate=30.0), tmp_path / "out").record["recovery"]
    assert found["best_step"] == 0
    assert all(torch.equal(value, weights(stock)[name]) for name, value in weights(tmp_path / "out").items())


def test_the_rate_of_the_best_trial_is_taken_and_the_run_is_as_without_trials(stock, settings, tmp_path):
    swept = recover(str(stock), settings(rates=[1e-9, 0.01, 1e30]), tmp_path / "swept").record["recovery"]
    trials = {trial["learning_rate"]: trial["loss"] for trial in swept["rates"]}
    assert trials[0.01] < trials[1e-9]
    assert trials[1e30] is None
    assert {trial["steps"] for trial in swept["rates"]} == {max(8, round(30 * SHARE))}
    assert swept["settings"]["learning_rate"] == 0.01
    alone = recover(str(stock), settings(), tmp_path / "alone").record["recovery"]
    assert swept["loss_curve"] == alone["loss_curve"]
    found = weights(tmp_path / "swept")
    assert all(torch.equal(value, found[name]) for name, value in weights(tmp_path / "alone").items())
    with pytest.raises(NumericsError, match=r"not finite at any learning rate of 1e\+30"):
        recover(str(stock), settings(rates=[1e30]), tmp_path / "none")
