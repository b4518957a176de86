"""Figures of a page as one drawing that stands alone: an SVG with their titles, keys and the page's colours."""

from collections.abc import Sequence
from xml.etree import ElementTree

from markupsafe import Markup

from neuromeld.drawing.axes import WIDTH
from neuromeld.drawing.style import STYLE

GAP, TITLE_HEIGHT, KEY_HEIGHT, KEY_GAP = 24, 24, 17, 10

SHORT_KEY = 26
"""Letters of a key's name of which two fit side by side."""


def draw(figures: Sequence[Markup]) -> str:
    """Return the figures side by side."""
    drawn: list[Markup] = []
    height = 0.0
    for index, figure in enumerate(figures):
        title, keys, svg = ElementTree.fromstring(figure)
        legend, top = _legend(keys)
        height = max(height, top + float(svg.attrib["viewBox"].split()[3]))
        content = Markup("".join(ElementTree.tostring(child, encoding="unicode") for child in svg))
        drawn.append(
            Markup(
                '<g transform="translate({} 0)"><text x="0" y="16">{}</text>{}'
                '<g role="img" aria-label="{}" transform="translate(0 {})">{}</g></g>'
            ).format(index * (WIDTH + GAP), title.text, legend, svg.attrib["aria-label"], top, content)
        )
    width = max(1, len(drawn)) * (WIDTH + GAP) - GAP
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="{} {} {} {}" style="font-family: system-ui, sans-serif">'
        '<style>{}</style><rect x="{}" y="{}" width="100%" height="100%" fill="var(--paper)"/>{}</svg>\n'
    ).format(-GAP, -GAP, width + 2 * GAP, height + 2 * GAP, STYLE, -GAP, -GAP, Markup("").join(drawn))


def _legend(keys: ElementTree.Element) -> tuple[Markup, float]:
    """Draw what each colour means; return it, and where the drawing below it starts."""
    names = [(key[0].attrib["class"], key[0].tail or "") for key in keys]
    columns = 2 if all(len(name) <= SHORT_KEY for _, name in names) else 1
    drawn = [
        Markup(
            '<rect class="box {}" x="{}" y="{}" width="10" height="10" rx="2"/>'
            '<text class="label" x="{}" y="{}">{}</text>'
        ).format(
            colour,
            x := 1 + index % columns * WIDTH // columns,
            y := TITLE_HEIGHT + 4 + index // columns * KEY_HEIGHT,
            x + 16,
            y + 9,
            name,
        )
        for index, (colour, name) in enumerate(names)
    ]
    rows = -(-len(names) // columns)
    return Markup("").join(drawn), TITLE_HEIGHT + rows * KEY_HEIGHT + (KEY_GAP if rows else 0)
