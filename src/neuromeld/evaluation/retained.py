"""Retained performance: what share of a reference's accuracy a smaller model keeps."""

from dataclasses import dataclass

import numpy as np

from neuromeld.errors import UserInputError
from neuromeld.evaluation.tasks import TaskScores

DRAWS = 10_000
"""Bootstrap draws behind an interval."""


@dataclass(frozen=True)
class Retained:
    """`ratio` is accuracy over the reference's; `low` and `high` bound its 95 % confidence interval."""

    ratio: float
    low: float
    high: float


def retained_performance(reference: TaskScores, scores: TaskScores, *, seed: int = 0) -> Retained | None:
    """Divide the mean accuracy over tasks by the reference's mean over the same tasks.

    The interval is the percentile bootstrap over questions: each draw takes a question's two answers together, since
    both models answered the same ones, and takes as many questions of each task as it has.  Chance is not subtracted:
    a model that guesses retains something.  Draws in which the reference has nothing right are left out.

    None where the reference has nothing right at all; `UserInputError` when the two answered different questions.
    """
    sizes, others = ({name: len(score.correct) for name, score in s.items()} for s in (reference, scores))
    if sizes != others:
        raise UserInputError(f"not the same questions: {sizes} of the reference, {others} of the model")
    accuracies = np.array([[s[name].accuracy for s in (reference, scores)] for name in sizes]).mean(0)
    if accuracies[0] == 0:
        return None
    generator = np.random.default_rng(seed)
    draws = np.zeros((DRAWS, 2))
    for name, size in sizes.items():
        # Drawing questions is drawing how often each pair of answers comes up.
        answers = np.stack([reference[name].correct, scores[name].correct], axis=1)
        pairs, counts = np.unique(answers, axis=0, return_counts=True)
        draws += generator.multinomial(size, counts / size, size=DRAWS) @ pairs / size
    draws = draws[draws[:, 0] > 0]
    low, high = np.quantile(draws[:, 1] / draws[:, 0], (0.025, 0.975))
    return Retained(float(accuracies[1] / accuracies[0]), float(low), float(high))
