"""Sections of the report, and the HTML that they are made of.  All text is escaped on the way in."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

Record = Mapping[str, Any]
"""The content of a `record.json`."""

MISSING = "\N{EN DASH}"


@dataclass(frozen=True)
class Section:
    """A titled part of the report."""

    title: str
    body: Markup

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def number(value: Any) -> str:
    """Format a value for a reader: thousands apart, four significant digits, a dash for what is not there."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def paragraph(text: str, **values: object) -> Markup:
    """Return a paragraph; `text` is ours and may hold markup, the values are escaped."""
    return Markup("<p>" + text + "</p>").format(**values)


def item(text: str, *values: object) -> Markup:
    """Return an entry of a list; `text` is ours and may hold markup, the values are escaped."""
    return Markup("<li>" + text + "</li>").format(*values)


def join(parts: Iterable[Markup | None]) -> Markup:
    """Return the parts that are there, one after the other."""
    return Markup("\n").join(part for part in parts if part is not None)


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """Return a table that scrolls by itself where the screen is narrow; the first cell of a row is its name."""
    cells = [
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            _text(first), Markup("").join(Markup("<td>{}</td>").format(_text(cell)) for cell in rest)
        )
        for first, *rest in rows
    ]
    return Markup(
        '<div class="scroll" role="region" tabindex="0" aria-label="{caption}"><table><caption>{caption}</caption>'
        "<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    ).format(
        caption=caption,
        head=Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in head),
        rows=Markup("").join(cells),
    )


def folded(summary: str, body: Markup) -> Markup:
    """Fold a part of the page: it opens on demand, and is open in print."""
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, body)


def figures(charts: Iterable[Markup | None]) -> Markup:
    """Place charts side by side where there is room."""
    return Markup('<div class="figures">{}</div>').format(join(charts))


def code(text: str) -> Markup:
    """Return a block of code."""
    return Markup('<pre tabindex="0"><code>{}</code></pre>').format(text)


def facts(values: Mapping[str, object]) -> Markup:
    """List names and what they are."""
    return Markup("<dl>{}</dl>").format(
        Markup("").join(
            Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(key.replace("_", " "), _text(value))
            for key, value in values.items()
        )
    )


def _text(value: object) -> object:
    return value if isinstance(value, Markup) else number(value)
