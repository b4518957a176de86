"""An extension of griffe: columns of names and their meaning in docstrings become Markdown lists."""

import re
from typing import Any

from griffe import Extension, Object

ROW = re.compile(r"([A-Za-z_]\w*(?:, \w+)*) {2,}(\S.*)")


class Columns(Extension):
    """Rewrite the docstring of every object."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite one."""
        if obj.docstring is not None:
            obj.docstring.value = as_lists(obj.docstring.value)


def as_lists(text: str) -> str:
    """Return the text with rows `name   meaning`, and the lines that continue them, as list items."""
    lines: list[str] = []
    in_row = False
    for line in text.split("\n"):
        if row := ROW.fullmatch(line):
            lines += [*([] if in_row else [""]), f"- `{row[1]}`: {row[2]}"]
            in_row = True
        elif in_row and line.startswith("  "):
            lines.append(f"  {line.strip()}")
        else:
            in_row = False
            lines.append(line)
    return "\n".join(lines)
