"""How alike the layers of a model are."""

from markupsafe import Markup

from neuromeld.drawing.charts import heat_map
from neuromeld.drawing.section import Record, Section, figures, join, paragraph


def similarity(record: Record) -> Section | None:
    """Draw how alike the outputs of each two layers are."""
    maps = similarity_maps(record)
    text = paragraph("Each cell compares two layers on the calibration text: the stronger the colour, the more alike.")
    return Section("Similarity of layers", join([text, figures(maps)])) if maps else None


def similarity_maps(record: Record) -> list[Markup]:
    """Return the heat maps of the kinds of sublayer that the record compares."""
    found = record.get("similarity", {})
    names = {"ffn": "Feed-forward networks", "attention": "Attention"}
    maps = [heat_map(name, "layer", found[key]) for key, name in names.items() if found.get(key)]
    return [drawn for drawn in maps if drawn is not None]
