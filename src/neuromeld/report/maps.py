"""The similarity of layers on its own: as a page, or as one drawing."""

from xml.etree import ElementTree

from markupsafe import Markup

from neuromeld.report.axes import WIDTH
from neuromeld.report.page import STYLE, render_page
from neuromeld.report.section import Record
from neuromeld.report.sections.sharing import similarity, similarity_maps

GAP, TITLE_HEIGHT = 24, 24


def render_maps(name: str, record: Record) -> str:
    """The heat maps of the record's `similarity` as an HTML page that needs nothing else."""
    section = similarity(record)
    return render_page(name, f"{name}: how alike its layers are", [section] if section else [])


def draw_maps(record: Record) -> str:
    """The same side by side as one SVG, with the page's colours."""
    drawn: list[Markup] = []
    height = 0.0
    for index, figure in enumerate(similarity_maps(record)):
        title, *_, svg = ElementTree.fromstring(figure)
        height = max(height, float(svg.attrib["viewBox"].split()[3]))
        x = index * (WIDTH + GAP)
        content = Markup("".join(ElementTree.tostring(child, encoding="unicode") for child in svg))
        drawn.append(
            Markup(
                '<text x="{}" y="16">{}</text><g role="img" aria-label="{}" transform="translate({} {})">{}</g>'
            ).format(x, title.text, svg.attrib["aria-label"], x, TITLE_HEIGHT, content)
        )
    width = max(1, len(drawn)) * (WIDTH + GAP) - GAP
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="{} {} {} {}" style="font-family: system-ui, sans-serif">'
        '<style>{}</style><rect x="{}" y="{}" width="100%" height="100%" fill="var(--paper)"/>{}</svg>\n'
    ).format(-GAP, -GAP, width + 2 * GAP, height + TITLE_HEIGHT + 2 * GAP, STYLE, -GAP, -GAP, Markup("").join(drawn))
