"""Where messages and tables are printed: names, paths and errors appear as the text that they are."""

import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text


def console(*, stderr: bool = False) -> Console:
    """Return a console that interprets nothing that it prints: no markup, emoji codes or escapes of the terminal."""
    return _Literal(stderr=stderr, markup=False, emoji=False, highlight=False)


def visible(text: str) -> str:
    """Write whatever a terminal would obey, hide or cannot encode as an escape, as in `\\x1b`."""
    return "".join(c if c in "\n\t" or c.isprintable() or _is_space(c) else _escaped(c) for c in text)


def _is_space(character: str) -> bool:
    return unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class _Literal(Console):
    """Every string that is printed, in a table too, becomes text here."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)
