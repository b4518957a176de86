"""Layers that are alike: how similar they are, which of them were tied, and which removed."""

from typing import Any

from markupsafe import Markup

from neuromeld.drawing.charts import Series, heat_map, lines
from neuromeld.drawing.section import Record, Section, figures, folded, join, number, paragraph, table


def windows(record: Record) -> Section | None:
    """The window of layers that share one feed-forward network: its refit, and the loss of each that was tried."""
    said = join([_refitted(refit) for refit in record.get("window_refits", [])])
    return _tried("Shared feed-forward networks", record.get("windows"), record.get("window"), said)


def _refitted(refit: dict[str, Any]) -> Markup:
    kept = "fitted again" if refit["ridge"] is not None else "fitted again, which did not help and was not kept"
    return paragraph(
        "The output matrix that they share was " + kept + ": relative error {before} before, {after} after, on "
        "calibration tokens that the fit did not see.",
        before=number(refit["error_before"]),
        after=number(refit["error_after"]),
    )


def dropped(record: Record) -> Section | None:
    """The window of layers that were removed, and the loss without each that was tried."""
    return _tried("Removed layers", record.get("dropped_windows"), _window(record.get("dropped")))


def deleted(record: Record) -> Section | None:
    """The window of layers whose feed-forward networks were removed, and the loss without each that was tried."""
    return _tried(
        "Removed feed-forward networks", record.get("removed_ffns_windows"), _window(record.get("removed_ffns"))
    )


def _window(layers: list[int] | None) -> dict[str, int] | None:
    return {"start": layers[0], "end": layers[-1]} if layers else None


def _tried(
    title: str, found: list[dict[str, Any]] | None, chosen: dict[str, int] | None, said: Markup | None = None
) -> Section | None:
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
        (f"{w['start']} to {w['end']}", w["loss"], "chosen" if chosen and _same(w, chosen) else "")
        for w in sorted(found, key=lambda w: float(w["loss"]))
    ]
    where = " was chosen; the dashed line marks it." if chart else "."
    parts = [
        paragraph("The window from {start} to {end}" + where, start=chosen["start"], end=chosen["end"])
        if chosen
        else None,
        said,
        figures([chart]) if chart else None,
        folded("All windows", table("Windows", ("window", "loss", ""), rows)) if rows else None,
    ]
    return Section(title, join(parts))


def _length(window: dict[str, int]) -> int:
    return window["end"] - window["start"] + 1


def similarity(record: Record) -> Section | None:
    """How alike the outputs of each two layers are."""
    maps = similarity_maps(record)
    text = paragraph("Each cell compares two layers on the calibration text: the stronger the colour, the more alike.")
    return Section("Similarity of layers", join([text, figures(maps)])) if maps else None


def similarity_maps(record: Record) -> list[Markup]:
    """The heat maps of the kinds of sublayer that the record compares."""
    found = record.get("similarity", {})
    names = {"ffn": "Feed-forward networks", "attention": "Attention"}
    maps = [heat_map(name, "layer", found[key]) for key, name in names.items() if found.get(key)]
    return [drawn for drawn in maps if drawn is not None]


def _same(window: dict[str, int], other: dict[str, int]) -> bool:
    return (window["start"], window["end"]) == (other["start"], other["end"])
