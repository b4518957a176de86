"""Calibration data in two parts: what a fit is made on, and what is held out to choose by."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor

from neuromeld.runtime.distributed import global_index
from neuromeld.stats.base import Statistic, reduce

HELD_OUT = 8
"""Every eighth calibration batch is held out."""

S = TypeVar("S", bound=Statistic)


def is_held_out(batch: int, num_batches: int) -> bool:
    """Tell whether a calibration batch is held out: every eighth, and the last of fewer."""
    every = min(HELD_OUT, num_batches)
    return batch % every == every - 1


def divided(num_batches: int) -> tuple[list[int], list[int]]:
    """Return the numbers of the batches to fit on, and of those held out."""
    parts: tuple[list[int], list[int]] = ([], [])
    for batch in range(num_batches):
        parts[is_held_out(batch, num_batches)].append(batch)
    return parts


def held_out_here(batches: Sequence[Any], index: int) -> bool:
    """Tell whether the batch at `index` of these, which may be the share of one rank, is held out."""
    return is_held_out(*global_index(batches, index))


class SplitStatistic(Generic[S]):
    """Two statistics of one kind: over the batches to fit on, and over those held out."""

    def __init__(self, make: Callable[[], S]) -> None:
        self._parts = [make(), make()]

    def update(self, held_out: bool, *activations: Tensor) -> None:
        """Add a batch to the part it belongs to."""
        self._parts[held_out].update(*activations)

    def reduced(self) -> tuple[S, S]:
        """Return both statistics, fitted and held out, summed over all ranks."""
        reduce(*self._parts)
        return self._parts[0], self._parts[1]

    def finalize(self, *arguments: Any) -> tuple[Any, Any]:
        """Finalize both, fitted and held out, with the same arguments.

        The sums are given up one after the other: together with what is made of them they can be the largest thing in
        memory.
        """
        reduce(*self._parts)
        held_out = self._parts.pop().finalize(*arguments)  # type: ignore[attr-defined]
        return self._parts.pop().finalize(*arguments), held_out  # type: ignore[attr-defined]
