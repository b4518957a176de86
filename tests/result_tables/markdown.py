"""Tables in Markdown."""

from collections.abc import Iterable, Sequence
from statistics import mean


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column is words, the others are numbers."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    lines.insert(1, "|---|" + "---:|" * (len(head) - 1))
    return "\n".join([*lines, ""])


def words(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Every column is words."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *cells)) + "\n"


def over_seeds(values: Sequence[float], form: str = "{:.3f}") -> str:
    """The mean, and the values where they differ; nothing where there is none."""
    if not values:
        return ""
    written = [form.format(value) for value in values]
    return form.format(mean(values)) + (f" ({', '.join(written)})" if len(set(written)) > 1 else "")


def strong(text: str, best: bool) -> str:
    return f"**{text}**" if best else text
