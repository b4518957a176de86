"""Layers that are alike: how similar they are, and which of them were tied."""

from markupsafe import Markup

from neuromeld.report.charts import Series, heat_map, lines
from neuromeld.report.section import Record, Section, figures, folded, join, paragraph, table


def windows(record: Record) -> Section | None:
    """The loss of sharing one feed-forward network over each window of layers that was tried."""
    found = record.get("windows")
    if not found:
        return None
    chosen = record.get("window")
    lengths = sorted({w["end"] - w["start"] for w in found})
    series = [
        Series(f"end - start = {length}", [(w["start"], w["loss"]) for w in found if w["end"] - w["start"] == length])
        for length in lengths
    ]
    chart = lines(
        "Loss by window", "first layer of the window", "loss", series, mark=chosen["start"] if chosen else None
    )
    rows = [
        (f"{w['start']} to {w['end']}", w["loss"], "chosen" if chosen and _same(w, chosen) else "")
        for w in sorted(found, key=lambda w: float(w["loss"]))
    ]
    said = None
    if chosen:
        said = paragraph(
            "The window from {start} to {end} was chosen; the dashed line marks it.",
            start=chosen["start"],
            end=chosen["end"],
        )
    parts = [
        said,
        figures([chart]) if chart else None,
        folded("All windows", table("Windows", ("window", "loss", ""), rows)),
    ]
    return Section("Shared feed-forward networks", join(parts))


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
