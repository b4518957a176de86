"""Pairs of a text and what becomes of it, such as its translation."""

from collections.abc import Iterator
from pathlib import Path

from neuromeld.data.sources import PAIR_SOURCES
from neuromeld.data.splits import Document, Split, select_split
from neuromeld.data.text.reading import kind_of, lines_of, local_path, open_text, parse_json
from neuromeld.data.text.rows import checked_text
from neuromeld.errors import UserInputError

Pair = tuple[str, str]
"""The source, and its target."""

MOST_CHARACTERS = 2**20
"""Of a source or a target: a tokenizer takes a hundred bytes and more for each."""


def text_pairs(source: str, split: Split) -> list[Pair]:
    """Return the pairs of one split of a named source or of `file:PATH`.

    A file is `.tsv`, a source, a tab and its target in every line, or `.jsonl`, lines of `{"source": ..., "target":
    ...}`, packed or not.  Which split a pair falls to depends on its source text alone, so that no source is in two.
    `UserInputError` for what cannot be read.
    """
    pairs = list(_file_pairs(local_path(source))) if source.startswith("file:") else PAIR_SOURCES[source]()
    targets: dict[str, list[str]] = {}
    for text, target in pairs:
        targets.setdefault(text, []).append(target)
    chosen = select_split((Document("", text) for text in targets), split, source=source)
    return [(document.text, target) for document in chosen for target in targets[document.text]]


def holds_pairs(source: str) -> bool:
    """Say whether a source gives pairs: a named one, a `.tsv` file, a `.jsonl` file whose first line is a pair."""
    if not source.startswith("file:"):
        return source in PAIR_SOURCES
    path = local_path(source)
    if kind_of(path) != ".jsonl":
        return kind_of(path) == ".tsv"
    with open_text(path) as file:
        first = next((line for line in lines_of(file, path) if line.strip()), "{}")
    row = parse_json(first, f"the first line of {path}")
    return isinstance(row, dict) and row.keys() >= {"source", "target"} and "text" not in row


def _file_pairs(path: Path) -> Iterator[Pair]:
    parse = {".tsv": _tab_separated, ".jsonl": _json_line}.get(kind_of(path))
    if parse is None:
        raise UserInputError(f"{path} ends neither in .tsv nor in .jsonl, the two kinds of file with text pairs")
    with open_text(path) as file:
        for number, line in enumerate(lines_of(file, path), start=1):
            if line.strip():
                where = f"{path}, line {number}"
                source, target = parse(line, where)
                longest = max(len(source), len(target))
                if longest > MOST_CHARACTERS:
                    raise UserInputError(
                        f"{where} has a text of {longest:,} characters; the most is {MOST_CHARACTERS:,}, as pairs are "
                        "sentences or paragraphs"
                    )
                yield checked_text(source, where), checked_text(target, where)


def _tab_separated(line: str, where: str) -> Pair:
    match line.split("\t"):
        case [source, target]:
            return source, target
    raise UserInputError(f"{where} is not a source, one tab and a target")


def _json_line(line: str, where: str) -> Pair:
    match parse_json(line, where):
        case {"source": str(source), "target": str(target)}:
            return source, target
    raise UserInputError(f'{where} is not {{"source": "...", "target": "..."}}')
