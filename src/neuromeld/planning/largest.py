"""The one search for what a budget allows: the largest of ascending sizes that fits, or the smallest."""

from bisect import bisect_left
from collections.abc import Callable, Sequence


def largest(values: Sequence[float], fits: Callable[[float], bool]) -> float | None:
    """Return the largest of ascending values that fits, None where none does.

    fits   true up to some value and false from there on
    """
    first_too_large = bisect_left(values, True, key=lambda value: not fits(value))
    return values[first_too_large - 1] if first_too_large else None


def smallest(values: Sequence[float], fits: Callable[[float], bool]) -> float | None:
    """Return the smallest of ascending values that fits, None where none does.

    fits   false up to some value and true from there on
    """
    first = bisect_left(values, True, key=fits)
    return values[first] if first < len(values) else None
