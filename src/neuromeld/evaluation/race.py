"""A race: contenders are measured on one batch after the other, and who cannot win any more drops out.

Source: Maron and Moore, Hoeffding races (NeurIPS 1993); with the t-test of paired differences as in irace (López-Ibáñez
et al. 2016).
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from scipy.special import stdtrit

from neuromeld.evaluation.loss import mean_of

CONFIDENCE = 0.95
"""With which a contender must be worse than the leader, one-sided, on the batches so far to drop out."""

Loss = tuple[float, int]
"""Nats, and the number of predictions, of one batch."""

K = TypeVar("K", bound=Hashable)


def race(
    contenders: Sequence[K], num_batches: int, measure: Callable[[int, Sequence[K]], Sequence[Loss]]
) -> dict[K, list[Loss]]:
    """Return the losses of each contender on the first of the batches, on all of them of those that could win.

    measure   `(batch, contenders) -> losses`, of those that are still in the race
    """
    losses: dict[K, list[Loss]] = {contender: [] for contender in contenders}
    running = list(contenders)
    for batch in range(num_batches):
        for contender, loss in zip(running, measure(batch, running), strict=True):
            losses[contender].append(loss)
        leader = min((losses[contender] for contender in running), key=mean_of)
        running = [contender for contender in running if can_win(losses[contender], leader)]
    return losses


def can_win(losses: Sequence[Loss], leader: Sequence[Loss]) -> bool:
    """Tell whether losses may still turn out less than the leader's on the same batches.

    They may not where the paired t-test on the differences is sure of it, as `CONFIDENCE` says, and where they are
    infinite.
    """
    own, best = mean_of(losses), mean_of(leader)
    if own <= best:
        return True
    if not math.isfinite(own):
        return False
    lead = own - best
    error = standard_error(losses, leader)
    return error is None or lead <= float(stdtrit(len(losses) - 1, CONFIDENCE)) * error


def standard_error(losses: Sequence[Loss], others: Sequence[Loss]) -> float | None:
    """Return the standard error of the difference of two mean losses on the same batches; None of fewer than two."""
    if len(losses) < 2:
        return None
    differences = [nats / count - other / number for (nats, count), (other, number) in zip(losses, others, strict=True)]
    return float(torch.tensor(differences, dtype=torch.float64).std()) / math.sqrt(len(differences))


def estimates(losses: Mapping[K, Sequence[Loss]]) -> dict[K, float]:
    """Return the mean loss of each contender on all batches of a race.

    Of one that dropped out, the best one's on all batches, plus what it lost more on those that it was measured on.
    """
    longest = max(len(found) for found in losses.values())
    best = min((found for found in losses.values() if len(found) == longest), key=mean_of)
    return {contender: _estimate(found, best) for contender, found in losses.items()}


def _estimate(found: Sequence[Loss], best: Sequence[Loss]) -> float:
    own = mean_of(found)
    if len(found) == len(best) or not math.isfinite(own):
        return own
    return mean_of(best) + own - mean_of(best[: len(found)])
