"""Pairs of a text and what becomes of it, such as its translation."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from neuromeld.data.splits import Document, Split, select_split
from neuromeld.data.text.libreoffice import libreoffice_help
from neuromeld.errors import UserInputError
from neuromeld.registry import Registry

Pair = tuple[str, str]
"""The source, and its target."""

PAIR_SOURCES: Registry[Callable[[], list[Pair]]] = Registry(
    "source of text pairs (or file:PATH)", {"libreoffice-help-en-de": libreoffice_help}
)


def text_pairs(source: str, split: Split) -> list[Pair]:
    """The pairs of one split of a named source or of `file:PATH`.

    A file is `.tsv`, a source, a tab and its target in every line, or `.jsonl`, lines of `{"source": ..., "target":
    ...}`.  Which split a pair falls to depends on its source text alone, so that no source is in two.
    `UserInputError` for what cannot be read.
    """
    if source.startswith("file:"):
        path = Path(source.removeprefix("file:"))
        pairs = list(_file_pairs(path))
    else:
        pairs = PAIR_SOURCES[source]()
    targets: dict[str, list[str]] = {}
    for text, target in pairs:
        targets.setdefault(text, []).append(target)
    chosen = select_split((Document("", text) for text in targets), split, source=source)
    return [(document.text, target) for document in chosen for target in targets[document.text]]


def _file_pairs(path: Path) -> Iterator[Pair]:
    if path.suffix not in (".tsv", ".jsonl"):
        raise UserInputError(f"{path} ends neither in .tsv nor in .jsonl, the two kinds of file with text pairs")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"{path} cannot be read as UTF-8 text: {error}") from error
    parse = _tab_separated if path.suffix == ".tsv" else _json_line
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield parse(line.rstrip("\r"), f"{path}, line {number}")


def _tab_separated(line: str, where: str) -> Pair:
    match line.split("\t"):
        case [source, target]:
            return source, target
    raise UserInputError(f"{where} is not a source, one tab and a target")


def _json_line(line: str, where: str) -> Pair:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserInputError(f"{where} is not JSON: {error}") from error
    match entry:
        case {"source": str(source), "target": str(target)}:
            return source, target
    raise UserInputError(f'{where} is not {{"source": "...", "target": "..."}}')
