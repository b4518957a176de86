"""Charts as inline SVG: they take their colours from the page's CSS variables and say in words what they show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from neuromeld.drawing.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, frame, linear, logarithmic, positions
from neuromeld.drawing.section import number

NUM_COLOURS = 6
"""Lines beyond these have the same colours again, dashed and with hollow marks."""

MARKED = 32
"""A line of more points than this has no marks on them."""

NAME_LENGTH = 48
"""Letters of a bar's name that fit."""


@dataclass(frozen=True)
class Series:
    """`points` are `(x, y)`, x a whole number; the line is broken where y is None or not finite.

    `before` makes it grey and dashed: what the others are compared to.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    before: bool = False


def lines(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    zero: bool = True,
    log: bool = False,
    mark: float | None = None,
) -> Markup | None:
    """Draw one line a series; `mark` points out one x.

    The y axis has zero on it unless told otherwise, or goes by orders of magnitude if `log`: all y are above zero then.

    None where no two points can be joined, or all of them have the same x.
    """
    pieces = [_pieces(s) for s in series]
    ys = [y for found in pieces for piece in found for _, y in piece]
    if not any(len(piece) > 1 and piece[0][0] < piece[-1][0] for found in pieces for piece in found):
        return None
    x = positions([x for s in series for x, _ in s.points], LEFT + 6, WIDTH - RIGHT - 6)
    y = logarithmic(ys, HEIGHT - BOTTOM, TOP) if log else linear(ys, HEIGHT - BOTTOM, TOP, zero=zero)
    drawn = [frame(x, y, x_label, y_label)]
    if mark is not None:
        drawn.append(
            Markup('<line class="mark" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(x(mark), TOP, HEIGHT - BOTTOM)
        )
    colours = ["c0" if s.before else _colour(sum(not t.before for t in series[:i])) for i, s in enumerate(series)]
    for colour, found in zip(colours, pieces, strict=True):
        for piece in found:
            path = " ".join(f"{x(px)},{y(py)}" for px, py in piece)
            drawn.append(Markup('<polyline class="line {}" points="{}"/>').format(colour, path))
            drawn += [
                Markup('<circle class="dot {}" cx="{}" cy="{}" r="2.5"><title>{}: {}</title></circle>').format(
                    colour, x(px), y(py), number(px), number(py)
                )
                for px, py in piece
                if len(series[0].points) <= MARKED
            ]
    ranges = [(s.name, [y for piece in found for _, y in piece]) for s, found in zip(series, pieces, strict=True)]
    said = "; ".join(f"{name}: {number(min(v))} to {number(max(v))}" for name, v in ranges if v)
    keys = [(s.name, colour) for s, colour in zip(series, colours, strict=True)]
    return _figure(title, f"{title}. {y_label} by {x_label}. {said}", keys, HEIGHT, Markup("").join(drawn))


def _colour(index: int) -> str:
    """Return the classes of the line with this number."""
    return f"c{1 + index % NUM_COLOURS}" + (" again" if index >= NUM_COLOURS else "")


def _pieces(series: Series) -> list[list[tuple[float, float]]]:
    """Return the points in order of x, apart where a value is missing."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in sorted(series.points, key=lambda point: point[0]):
        if y is not None and math.isfinite(y):
            pieces[-1].append((x, y))
        else:
            pieces.append([])
    return [piece for piece in pieces if piece]


def bars(
    title: str, x_label: str, labels: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]]
) -> Markup | None:
    """Draw horizontal bars, one group a label; the values stand beside them.  None where there is no value."""
    values = [v for _, found in series for v in found if v is not None and math.isfinite(v)]
    if not values:
        return None
    x = linear(values, 0, WIDTH - 64)
    drawn, top = [], 4.0
    for row, label in enumerate(labels):
        name = label if len(label) <= NAME_LENGTH else label[: NAME_LENGTH - 1] + "…"
        drawn.append(Markup('<text x="0" y="{}">{}</text>').format(top + 13, name))
        top += 19
        for index, (_, found) in enumerate(series):
            value = found[row]
            if value is None or not math.isfinite(value):
                continue
            left, right = sorted((x(0), x(value)))
            drawn.append(
                Markup('<rect class="bar c{}" x="{}" y="{}" width="{}" height="13" rx="2"/>').format(
                    index, left, top, max(1.0, right - left)
                )
            )
            drawn.append(
                Markup('<text class="value" x="{}" y="{}">{}</text>').format(right + 6, top + 11, number(value))
            )
            top += 16
        top += 8
    drawn.append(Markup('<text class="label" x="0" y="{}">{}</text>').format(top + 12, x_label))
    said = "; ".join(
        f"{label}: " + ", ".join(f"{name} {number(found[row])}" for name, found in series)
        for row, label in enumerate(labels)
    )
    return _figure(
        title,
        f"{title}. {said}",
        [(name, f"c{i}") for i, (name, _) in enumerate(series)],
        top + 20,
        Markup("").join(drawn),
    )


def heat_map(
    title: str, x_label: str, matrix: Sequence[Sequence[float]], *, y_label: str | None = None
) -> Markup | None:
    """Draw a matrix, row 0 at the top; the stronger the colour, the larger.  None where nothing is finite.

    `y_label` is that of the rows, by default the columns' too.
    """
    num_rows, num_columns = len(matrix), len(matrix[0]) if matrix else 0
    values = [v for row in matrix for v in row if math.isfinite(v)]
    if not values:
        return None
    low, high = min(values), max(values)
    side = (WIDTH - LEFT - RIGHT) / max(num_rows, num_columns)
    step = max(1, math.ceil(max(num_rows, num_columns) / 8))
    cells = [
        Markup(
            '<rect class="cell" x="{}" y="{}" width="1" height="1" fill-opacity="{}"><title>{}, {}: {}</title></rect>'
        ).format(column, row, _opacity((value - low) / ((high - low) or 1)), row, column, number(value))
        for row, line in enumerate(matrix)
        for column, value in enumerate(line)
        if math.isfinite(value)
    ]
    # Cells of side 1 share their edges exactly, so that no seam shows between them.
    drawn = [Markup('<g transform="translate({} {}) scale({})">{}</g>').format(LEFT, TOP, side, Markup("").join(cells))]
    bottom = TOP + num_rows * side
    drawn += [
        Markup('<text class="tick" x="{}" y="{:.1f}">{}</text>').format(LEFT - 6, TOP + (tick + 0.5) * side + 4, tick)
        for tick in range(0, num_rows, step)
    ]
    drawn += [
        Markup('<text class="tick middle" x="{:.1f}" y="{:.1f}">{}</text>').format(
            LEFT + (tick + 0.5) * side, bottom + 16, tick
        )
        for tick in range(0, num_columns, step)
    ]
    drawn.append(
        Markup(
            '<text class="label" x="0" y="13">{}</text><text class="label middle" x="{}" y="{:.1f}">{}</text>'
        ).format(y_label or x_label, LEFT + num_columns * side / 2, bottom + 34, x_label)
    )
    drawn.append(_colour_key(bottom + 48, low, high))
    said = f"{title}. {num_rows} by {num_columns}, from {number(low)} to {number(high)}"
    return _figure(title, said, [], bottom + 66, Markup("").join(drawn))


def _opacity(share: float) -> float:
    return round(0.06 + 0.94 * share, 3)  # the least still differs from the paper


def _colour_key(top: float, low: float, high: float) -> Markup:
    steps = Markup("").join(
        Markup('<rect class="cell" x="{}" y="{:.1f}" width="10" height="12" fill-opacity="{}"/>').format(
            LEFT + 60 + 10 * i, top, _opacity(i / 10)
        )
        for i in range(11)
    )
    return steps + Markup(
        '<text class="tick" x="{}" y="{:.1f}">{}</text><text class="value" x="{}" y="{:.1f}">{}</text>'
    ).format(LEFT + 54, top + 10, number(low), LEFT + 176, top + 10, number(high))


def _figure(title: str, said: str, named: Sequence[tuple[str, str]], height: float, drawn: Markup) -> Markup:
    """Return the title, what each colour means where there are several, and the drawing with what it shows in words."""
    keys = Markup("").join(
        Markup('<span class="key"><i class="{}"></i>{}</span>').format(colour, name)
        for name, colour in named
        if len(named) > 1
    )
    return Markup(
        '<figure><figcaption>{}</figcaption><div class="keys">{}</div>'
        '<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">{}</svg></figure>'
    ).format(title, keys, WIDTH, height, said, drawn)
