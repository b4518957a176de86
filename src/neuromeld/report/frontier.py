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
ACCURACY = "next-token accuracy lost"


def render_frontier(found: Sequence[Frontier]) -> str:
    """Render the frontiers of some models as one HTML page that needs nothing else."""
    names = [_short(one) for one in found]
    series = [one for model in found for one in _by_text(model)]
    operations = [Series(_short(one), _points(one, "flops_ratio")) for one in found]
    knee = round(100 * found[0]["knee"]) if len(found) == 1 and found[0]["knee"] is not None else None
    charts = [
        lines("Loss by size", "% of the parameters kept", LOSS, series, mark=knee),
        lines("Loss by operations", "% of the operations kept", LOSS, operations),
    ]
    said = paragraph(
        "Excess loss is that of the smaller model over the original's, in nats per token of validation text, which "
        "candidates were chosen by: held-out text costs a little more. Next-token accuracy that is lost is a share of "
        "the original's, on the same text. By the other texts that are named nothing was "
        "chosen. Without any tuning."
    )
    sections = [Section("What each size costs", join([said, figures(charts)])), *map(_section, found)]
    return render_page(" and ".join(names), f"{', '.join(names)}: the frontier of size and loss", sections)


def rows_of(one: Frontier) -> list[list[str]]:
    """Return the points of a model as cells, as `head_of` names them."""
    return [
        [
            f"{point['keep']:g}" + (" (knee)" if point["keep"] == one["knee"] else ""),
            f"{point['parameters']:,}",
            f"{point['flops_ratio']:.3f}",
            f"{point['loss']:.4f} ± {point['standard_error']:.4f}",
            _share(point["accuracy_lost"]),
            *(f"{point['other_losses'][text]:.4f}" for text in texts_of(one)),
            *(f"{value:.3f}" for value in point["figures"].values()),
            point["candidate"],
            f"{point['passes']:.1f}",
        ]
        for point in one["points"]
    ]


def head_of(one: Frontier) -> list[str]:
    """Return the names of what `rows_of` shows."""
    others = [f"on {text}" for text in texts_of(one)]
    figures = [f"{name} (original {value:.3f})" for name, value in one["original"].items()]
    return ["share", "parameters", "operations", LOSS, ACCURACY, *others, *figures, "candidate", "cost in plain passes"]


def texts_of(one: Frontier) -> list[str]:
    """Return the texts of other kinds that a model was measured on."""
    return list(one["points"][0]["other_losses"])


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
    return Section(_short(one), join([table("Points", head_of(one), rows_of(one)), said, *points]))


def _by_text(one: Frontier) -> list[Series]:
    """Return the losses by size of a model on the validation text, and on texts of other kinds."""
    others = [
        Series(f"{_short(one)} on {text}", [(100 * p["kept_ratio"], p["other_losses"][text]) for p in one["points"]])
        for text in texts_of(one)
    ]
    return [Series(_short(one), _points(one, "kept_ratio")), *others]


def _points(one: Frontier, key: str) -> list[tuple[float, float | None]]:
    return [(100 * point[key], point["loss"]) for point in one["points"]]


def _share(lost: dict[str, float] | None) -> str:
    return "" if lost is None else f"{lost['amount']:.2%} ± {lost['error']:.2%}"


def _short(one: Frontier) -> str:
    return str(one["model"]).removeprefix("package:").rstrip("/").rpartition("/")[2]
