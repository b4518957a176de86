"""The frontier as a page: the loss over what is kept, and what each point is made of."""

from collections.abc import Sequence
from typing import Any

import yaml

from neuromeld.drawing.charts import Series, lines
from neuromeld.drawing.section import Section, code, figures, folded, join, paragraph, table
from neuromeld.report.page import render_page

Frontier = dict[str, Any]
"""What `FrontierJob` returns for one model."""

LOSS = "excess loss (nats)"


def render_frontier(found: Sequence[Frontier]) -> str:
    """Render the frontiers of some models as one HTML page that needs nothing else."""
    names = [_short(one) for one in found]
    series = [Series(_short(one), _points(one, "kept_ratio")) for one in found]
    operations = [Series(_short(one), _points(one, "flops_ratio")) for one in found]
    knee = round(100 * found[0]["knee"]) if len(found) == 1 and found[0]["knee"] is not None else None
    charts = [
        lines("Loss by size", "% of the parameters kept", LOSS, series, mark=knee),
        lines("Loss by operations", "% of the operations kept", LOSS, operations),
    ]
    said = paragraph(
        "Excess loss is that of the smaller model over the original's, in nats per token of validation text, which "
        "candidates were chosen by: held-out text costs a little more. Without any tuning."
    )
    sections = [Section("What each size costs", join([said, figures(charts)])), *map(_section, found)]
    return render_page(" and ".join(names), f"{', '.join(names)}: the frontier of size and loss", sections)


def rows_of(one: Frontier) -> list[list[str]]:
    """Return the points of a model as cells: share, parameters, operations, loss, candidate, plain passes."""
    return [
        [
            f"{point['keep']:g}" + (" (knee)" if point["keep"] == one["knee"] else ""),
            f"{point['parameters']:,}",
            f"{point['flops_ratio']:.3f}",
            f"{point['loss']:.4f} ± {point['standard_error']:.4f}",
            point["candidate"],
            f"{point['passes']:.1f}",
        ]
        for point in one["points"]
    ]


HEAD = ("share", "parameters", "operations", LOSS, "candidate", "cost in plain passes")


def command_of(one: Frontier, point: dict[str, Any]) -> str:
    """Return the command that makes a point: the shares before it decide which candidates are built for it."""
    return f"neuromeld compress {one['model']} OUT --keep {point['keep_option']} {one['options']}".rstrip()


def _section(one: Frontier) -> Section:
    points = [
        folded(
            f"{point['keep']:g}: {point['candidate']}",
            join([code(command_of(one, point)), code(yaml.safe_dump(point["recipe"], sort_keys=False))]),
        )
        for point in one["points"]
    ]
    missing = ", ".join(f"{keep:g}" for keep in one["out_of_reach"])
    said = paragraph("No candidate meets {missing}.", missing=missing) if missing else None
    return Section(_short(one), join([table("Points", HEAD, rows_of(one)), said, *points]))


def _points(one: Frontier, key: str) -> list[tuple[float, float | None]]:
    return [(100 * point[key], point["loss"]) for point in one["points"]]


def _short(one: Frontier) -> str:
    return str(one["model"]).removeprefix("package:").rstrip("/").rpartition("/")[2]
