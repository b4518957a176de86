"""Retained performance: its value, and an interval that covers as often as it says."""

import numpy as np
import pytest

from neuromeld.errors import UserInputError
from neuromeld.evaluation import TaskScore, retained_performance


def score(*correct: float) -> TaskScore:
    return TaskScore(float(np.mean(correct)), tuple(map(float, correct)), {})


def test_ratio_is_of_the_mean_accuracies_of_the_tasks():
    reference = {"a": score(1, 1, 1, 0), "b": score(1, 0)}
    scores = {"a": score(1, 0, 1, 0), "b": score(0, 0)}
    assert retained_performance(reference, scores).ratio == pytest.approx(0.25 / 0.625)


def test_equal_answers_retain_everything_with_certainty():
    reference = {"a": score(*[1, 0] * 20)}
    found = retained_performance(reference, reference)
    assert (found.ratio, found.low, found.high) == (1, 1, 1)


def test_questions_are_drawn_in_pairs():
    """Two models that differ on few questions are compared far better than two that differ on many."""
    rng = np.random.default_rng(0)
    dense = rng.random(400) < 0.5
    flipped = np.where(np.arange(400) < 8, ~dense, dense)
    shuffled = rng.permutation(dense)
    alike, unlike = (retained_performance({"a": score(*dense)}, {"a": score(*x)}) for x in (flipped, shuffled))
    assert alike.high - alike.low < 0.5 * (unlike.high - unlike.low)


def test_interval_is_the_normal_one_for_many_questions():
    """The delta method's interval: the variance of c / d over questions, linearised at the means."""
    rng = np.random.default_rng(1)
    dense = (rng.random(4000) < 0.7).astype(float)
    small = np.where(rng.random(4000) < 0.85, dense, rng.random(4000) < 0.4).astype(float)
    found = retained_performance({"a": score(*dense)}, {"a": score(*small)})
    ratio = small.mean() / dense.mean()
    deviation = (small - ratio * dense).std() / dense.mean() / 4000**0.5
    assert found.ratio == pytest.approx(ratio)
    assert found.low == pytest.approx(ratio - 1.96 * deviation, abs=0.1 * deviation)
    assert found.high == pytest.approx(ratio + 1.96 * deviation, abs=0.1 * deviation)


def test_nothing_is_retained_of_nothing():
    assert retained_performance({"a": score(0, 0)}, {"a": score(1, 0)}) is None


def test_answers_to_other_questions_are_refused():
    with pytest.raises(UserInputError, match="not the same questions"):
        retained_performance({"a": score(1, 0)}, {"a": score(1)})
