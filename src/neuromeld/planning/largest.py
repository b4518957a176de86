"""The one search for what a budget allows: the largest of ascending sizes that fits."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

BISECTIONS = 40


def largest(values: Sequence[float], fits: Callable[[float], bool]) -> float | None:
    """Return the largest of ascending values that fits, None where none does.

    fits   true up to some value and false from there on
    """
    first_too_large = bisect_left(values, True, key=lambda value: not fits(value))
    return values[first_too_large - 1] if first_too_large else None


def smallest(low: float, high: float, fits: Callable[[float], bool]) -> float | None:
    """Return the smallest real number between `low` and `high` that fits, to `BISECTIONS` bits; None where none does.

    fits   false up to some number and true from there on
    """
    if not fits(high):
        return None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
