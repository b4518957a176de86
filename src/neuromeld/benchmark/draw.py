"""The results of a grid as a drawing: excess loss against the parameters that are kept."""

from collections.abc import Sequence
from statistics import mean

from markupsafe import Markup

from neuromeld.benchmark.grid import DENSE
from neuromeld.benchmark.results import Line, Results, excess_loss
from neuromeld.report.charts import Series, bars, lines
from neuromeld.report.drawing import draw

LOSS = "excess loss (nats)"


def draw_results(results: Results, found: Sequence[Line]) -> str | None:
    """An SVG with one chart a model, the mean over seeds; lines over budgets, bars where there is one.

    None where nothing can be compared.
    """
    charts = [_chart(model, results, [line for line in found if line.model == model]) for model in _names(found)]
    figures = [chart for chart in charts if chart is not None]
    return draw(figures) if figures else None


def _chart(model: str, results: Results, found: Sequence[Line]) -> Markup | None:
    points: dict[str, list[tuple[float, float]]] = {}
    for name in dict.fromkeys(line.row for line in found if line.row != DENSE):
        rows = [line for line in found if line.row == name]
        budgets = dict.fromkeys(line.keep for line in rows)
        points[name] = [_point(results, [line for line in rows if line.keep == keep]) for keep in budgets]
    if not points:
        return None
    title = model.removeprefix("package:").rpartition("/")[2]
    if max(map(len, points.values())) == 1:
        names = sorted(points, key=lambda name: points[name][0][1])
        shown = [f"{name}, {points[name][0][0]:.1f} % kept" for name in names]
        return bars(title, LOSS, shown, [(LOSS, [points[name][0][1] for name in names])])
    return lines(title, "% of the parameters kept", LOSS, [Series(name, points[name]) for name in points])


def _point(results: Results, seeds: Sequence[Line]) -> tuple[float, float]:
    """Percent of the parameters kept, and excess loss."""
    pairs = [(line, dense) for line in seeds if (dense := results.dense(line)) is not None]
    return (
        mean(100 * line.parameters / dense.parameters for line, dense in pairs),
        mean(excess_loss(line, dense) for line, dense in pairs),
    )


def _names(found: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(line.model for line in found))
