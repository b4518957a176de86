"""The frame of a chart: scales with round ticks, axes and labels, in the units of an SVG's view box."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 28, 44
"""Room around the plot for ticks and labels."""


@dataclass(frozen=True)
class Scale:
    """Maps `low .. high` to `start .. end`, evenly or, if `log`, by orders of magnitude."""

    ticks: tuple[float, ...]
    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def linear(values: Sequence[float], start: float, end: float, *, zero: bool = True) -> Scale:
    """Return a scale with round ends that holds all values, and zero too if asked."""
    low, high = (min(values), max(values)) if not zero else (min(0.0, *values), max(0.0, *values))
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    step = _round_step((high - low) / 5)
    low, high = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(tuple(i * step for i in range(low, high + 1)), low * step, high * step, start, end)


def logarithmic(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a scale by orders of magnitude, with round ends, that holds all values, which are above zero."""
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    steps = [m * 10.0**power for power in powers for m in (1, 2, 5)]
    low, high = max(s for s in steps if s <= min(values)), min(s for s in steps if s > max(values))
    return Scale(tuple(s for s in steps if low <= s <= high), low, high, start, end, log=True)


def positions(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a scale from the first of several whole numbers to the last."""
    low, high = min(values), max(values)
    step = int(max(1.0, _round_step((high - low) / 6)))
    ticks = range(math.ceil(low / step) * step, int(high) + 1, step)
    return Scale(tuple(map(float, ticks)), low, high, start, end)


def frame(x: Scale, y: Scale, x_label: str, y_label: str) -> Markup:
    """Draw grid lines, ticks and labels."""
    lines = [
        Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text class="tick" x="{}" y="{}">{}</text>').format(
            LEFT, WIDTH - RIGHT, y(tick), y(tick), LEFT - 6, y(tick) + 4, _short(tick)
        )
        for tick in y.ticks
    ]
    lines += [
        Markup('<text class="tick middle" x="{}" y="{}">{}</text>').format(x(tick), HEIGHT - BOTTOM + 17, _short(tick))
        for tick in x.ticks
    ]
    labels = Markup(
        '<text class="label" x="0" y="13">{}</text><text class="label middle" x="{}" y="{}">{}</text>'
    ).format(y_label, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label)
    return Markup("").join([*lines, labels])


def _round_step(step: float) -> float:
    """1, 2 or 5 times a power of ten, not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10000 else f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
