"""Charts of fits and merges by layer, for the reports of stages."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from neuromeld.drawing.charts import Series, heat_map, lines
from neuromeld.drawing.section import figures, folded, join, paragraph, table


def merge_maps(entries: Sequence[tuple[str, dict[str, Any]]]) -> Markup | None:
    """Draw where neurons went that were merged: a map of each plan, and the neurons that merged most."""
    shown = [(name, entry["merges"]) for name, entry in entries if "merges" in entry]
    if not shown:
        return None
    maps = [
        heat_map(f"Where neurons go: {name}", "kept neurons, by block", found["blocks"], y_label="neurons, by block")
        for name, found in shown
    ]
    rows = [
        (f"{name}: neuron {neuron}", target, f"{share:.1%}")
        for name, found in shown
        for neuron, target, share in found["merged"]
    ]
    said = paragraph(
        "Each row of a map is a block of adjacent neurons, and shows what share of it goes to each block of the "
        "neurons that are kept. A bright diagonal is neurons that stay themselves."
    )
    head = ("", "goes into neuron", "with this share of it")
    return join([said, figures(maps), folded("The neurons that merged most", table("Merged neurons", head, rows))])


def learning_curve(looks: Sequence[dict[str, Any]], trained: str, made: str) -> Markup | None:
    """Draw how far the predictions were from the whole model's while something was learned, by step.

    trained, made  what the model is while it is trained, and what it would be made then
    """
    curves = [
        Series(name, [(look["step"], look[key]) for look in looks if look[key] is not None])
        for name, key in ((f"{trained}, text of the step", "loss"), (f"{made}, held-out text", "held_out"))
    ]
    return lines("Divergence from the whole model", "step", "nats per token", curves)


def before_and_after(
    title: str, entries: Sequence[tuple[int, dict[str, Any]]], names: tuple[str, str]
) -> Markup | None:
    series = [
        Series(name, [(layer, entry[key]) for layer, entry in entries], before=key == "error_before")
        for name, key in zip(names, ("error_before", "error_after"), strict=True)
    ]
    return lines(title, "layer", "relative error", series)


def drawn(charts: Sequence[Markup | None]) -> Markup | None:
    return figures(charts) if any(charts) else None


def log10(value: float | None) -> float | None:
    return math.log10(value) if value is not None and value > 0 else None
