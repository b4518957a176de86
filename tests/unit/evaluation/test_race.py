"""Who drops out of a race, and that it costs nothing: the winner is the one that all batches would have named."""

import math

import pytest
from scipy import stats

from neuromeld.evaluation.race import CONFIDENCE, can_win, estimates, race, standard_error

COUNT = 10
TRUTH = {
    "best": [1.0, 2.0, 1.1, 2.1],
    "near": [1.2, 1.9, 1.3, 2.2],
    "far": [3.0, 4.1, 3.0, 4.0],
    "broken": [math.inf] * 4,
}


def losses(name, batches=4):
    return [(mean * COUNT, COUNT) for mean in TRUTH[name][:batches]]


def run(names):
    asked = []

    def measure(batch, running):
        asked.append(list(running))
        return [losses(name)[batch] for name in running]

    return race(names, 4, measure), asked


def test_who_is_surely_worse_is_measured_no_further():
    found, asked = run(["far", "near", "broken", "best"])
    assert found["best"] == losses("best")
    assert found["near"] == losses("near")
    assert found["far"] == losses("far", 2)
    assert found["broken"] == losses("broken", 1)
    assert asked[-1] == ["near", "best"]


def test_one_batch_decides_nothing_and_infinity_everything():
    assert can_win(losses("far", 1), losses("best", 1))
    assert not can_win(losses("broken", 1), losses("best", 1))
    assert can_win(losses("broken", 1), losses("broken", 1))


def test_the_test_is_the_paired_t_test():
    one, other = TRUTH["near"], TRUTH["best"]
    found = stats.ttest_rel(one, other, alternative="greater")
    assert standard_error(losses("near"), losses("best")) == pytest.approx(
        (sum(one) - sum(other)) / 4 / found.statistic
    )
    assert can_win(losses("near"), losses("best")) == (found.pvalue > 1 - CONFIDENCE)
    assert not can_win(losses("far"), losses("best"))


def test_a_batch_that_was_not_measured_is_estimated_by_the_difference():
    found = estimates({"best": losses("best"), "near": losses("near"), "far": losses("far", 2)})
    assert found["best"] == pytest.approx(sum(TRUTH["best"]) / 4)
    assert found["near"] == pytest.approx(sum(TRUTH["near"]) / 4)
    assert found["far"] == pytest.approx(sum(TRUTH["best"]) / 4 + 3.55 - 1.5)
    assert estimates({"best": losses("best"), "broken": losses("broken", 1)})["broken"] == math.inf
