"""The results of a grid as a drawing: excess loss against the parameters that are kept."""

from collections.abc import Callable, Sequence
from statistics import mean

from markupsafe import Markup

from neuromeld.benchmark.grid import DENSE
from neuromeld.benchmark.results import Line, Results, excess_loss, recovered_loss
from neuromeld.drawing.charts import Series, bars, lines
from neuromeld.drawing.svg import draw

LOSS = "excess loss (nats)"
AFTER = "excess loss after recovery (nats)"

ORDER = 10
"""Values that differ by more than this factor are drawn by orders of magnitude."""

Measure = Callable[[Line, Line], float | None]


def draw_results(results: Results, found: Sequence[Line]) -> str | None:
    """Draw an SVG with the charts of every model, means over seeds; lines over budgets, bars where there is one.

    With a recovery, one chart is before and one after it.  None where nothing can be compared.
    """
    measures = {LOSS: excess_loss} | ({AFTER: recovered_loss} if any(line.recovered for line in found) else {})
    charts = [
        _chart(model, label, measure, results, [line for line in found if line.model == model])
        for model in dict.fromkeys(line.model for line in found)
        for label, measure in measures.items()
    ]
    figures = [chart for chart in charts if chart is not None]
    return draw(figures) if figures else None


def _chart(model: str, label: str, measure: Measure, results: Results, found: Sequence[Line]) -> Markup | None:
    found = [line for line in found if (dense := results.dense(line)) and measure(line, dense) is not None]
    points: dict[str, list[tuple[float, float]]] = {}
    for name in dict.fromkeys(line.row for line in found if line.row != DENSE):
        rows = [line for line in found if line.row == name]
        budgets = dict.fromkeys(line.keep for line in rows)
        points[name] = [_point(measure, results, [line for line in rows if line.keep == keep]) for keep in budgets]
    if not points:
        return None
    title = model.removeprefix("package:").rpartition("/")[2]
    if max(map(len, points.values())) == 1:
        names = sorted(points, key=lambda name: points[name][0][1])
        shown = [f"{name}, {points[name][0][0]:.1f} % kept" for name in names]
        return bars(title, label, shown, [(label, [points[name][0][1] for name in names])])
    ys = [y for found in points.values() for _, y in found]
    log = min(ys) > 0 and max(ys) > ORDER * min(ys)
    return lines(title, "% of the parameters kept", label, [Series(name, points[name]) for name in points], log=log)


def _point(measure: Measure, results: Results, seeds: Sequence[Line]) -> tuple[float, float]:
    """Percent of the parameters kept, and what is measured over the dense model."""
    pairs = [(line, dense) for line in seeds if (dense := results.dense(line)) is not None]
    losses = [loss for line, dense in pairs if (loss := measure(line, dense)) is not None]
    return mean(100 * line.parameters / dense.parameters for line, dense in pairs), mean(losses)
