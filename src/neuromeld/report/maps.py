"""The similarity of layers on its own: as a page, or as one drawing."""

from neuromeld.drawing.section import Record
from neuromeld.drawing.svg import draw
from neuromeld.report.page import render_page
from neuromeld.report.sections.similarity import similarity, similarity_maps


def render_maps(name: str, record: Record) -> str:
    """Draw the heat maps of the record's `similarity` as an HTML page that needs nothing else."""
    section = similarity(record)
    return render_page(name, f"{name}: how alike its layers are", [section] if section else [])


def draw_maps(record: Record) -> str:
    """Draw the heat maps side by side as one SVG, with the page's colours."""
    return draw(similarity_maps(record))
