"""The part of a report that shows which window of layers was chosen, and the loss of each that was tried."""

from typing import Any

from markupsafe import Markup

from neuromeld.drawing.charts import Series, lines
from neuromeld.drawing.section import Section, figures, folded, join, paragraph, table


def layers_section(title: str, tried: list[dict[str, Any]] | None, layers: list[int] | None) -> Section | None:
    """Draw the windows that were tried; the layers that were chosen are one."""
    return windows_section(title, tried, {"start": layers[0], "end": layers[-1]} if layers else None)


def windows_section(
    title: str, found: list[dict[str, Any]] | None, chosen: dict[str, int] | None, said: Markup | None = None
) -> Section | None:
    """Draw the loss by window, and mark the chosen one; `said` stands before the picture."""
    if not found and not chosen:
        return None
    found = found or []
    lengths = sorted({_length(w) for w in found})
    series = [
        Series(f"{length} layers", [(w["start"], w["loss"]) for w in found if _length(w) == length])
        for length in lengths
    ]
    mark = chosen["start"] if chosen else None
    chart = lines("Loss by window", "first layer of the window", "loss", series, mark=mark)
    rows = [
        (f"{w['start']} to {w['end']}", w["loss"], w.get("batches"), "chosen" if chosen and _same(w, chosen) else "")
        for w in sorted(found, key=lambda w: float(w["loss"]))
    ]
    where = " was chosen; the dashed line marks it." if chart else "."
    parts = [
        paragraph("The window from {start} to {end}" + where, start=chosen["start"], end=chosen["end"])
        if chosen
        else None,
        said,
        figures([chart]) if chart else None,
        folded("All windows", table("Windows", ("window", "loss", "batches it was measured on", ""), rows))
        if rows
        else None,
    ]
    return Section(title, join(parts))


def _length(window: dict[str, int]) -> int:
    return window["end"] - window["start"] + 1


def _same(window: dict[str, int], other: dict[str, int]) -> bool:
    return (window["start"], window["end"]) == (other["start"], other["end"])
