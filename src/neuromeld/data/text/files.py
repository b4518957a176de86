"""`file:PATH`: the user's own text, as plain text, JSON, CSV or Parquet, packed or not.

Every document is named after its file, so that which split it falls to depends on its text alone: repeated text
stays within one split, and lines added to the file move no others.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from neuromeld.data.splits import Document, Split, select_split
from neuromeld.data.text.reading import MOST_IN_LINE, PACKED, kind_of, lines_of, open_text, parse_json, whole
from neuromeld.data.text.rows import row_text
from neuromeld.errors import UserInputError

RUN_CHARACTERS = 2000
"""Paragraphs of a .txt file, and the lines of a longer paragraph, are gathered into documents of up to this length."""

MOST_CHARACTERS = 10_000
"""Lines of a .txt file that are longer are cut, behind a sentence or at least a word."""

SENTENCE_ENDS = (". ", "! ", "? ", "\N{IDEOGRAPHIC FULL STOP}")

Row = tuple[object, str]
"""What a row of a file holds, and where it stands."""


def file_documents(path: Path, split: Split, tokenizer: PreTrainedTokenizerBase) -> list[Document]:
    """Return the documents of one split of a file.  `UserInputError` when it cannot be read as such."""
    kind = kind_of(path)
    if kind == ".txt":
        texts, source = _plain_texts(path), f"{path}, divided at blank lines and where they are far apart at lines,"
    elif kind in ROWS:
        texts, source = (row_text(row, tokenizer, where) for row, where in ROWS[kind](path)), str(path)
    else:
        raise UserInputError(
            f"{path} ends in none of .txt, {', '.join(ROWS)}, the kinds of text file there are "
            f"(packed, too: {', '.join(PACKED)})"
        )
    return select_split((Document(path.name, text) for text in texts), split, source=source)


def _plain_texts(path: Path) -> Iterator[str]:
    with open_text(path) as file:
        yield from paragraph_runs(lines_of(file, path))


def paragraph_runs(lines: Iterable[str]) -> Iterator[str]:
    """Yield consecutive paragraphs, gathered while they fit `RUN_CHARACTERS`; a longer one is divided into lines
    first.
    """
    groups = groupby(lines, key=lambda line: not line.strip())
    return _gathered((run for is_blank, group in groups if not is_blank for run in _line_runs(group)), "\n\n")


def _line_runs(lines: Iterable[str]) -> Iterator[str]:
    return _gathered((part for line in lines for part in cut_text(line)), "\n")


def _gathered(parts: Iterable[str], separator: str) -> Iterator[str]:
    run = ""
    for part in parts:
        if run and len(run) + len(part) > RUN_CHARACTERS:
            yield run
            run = ""
        run = f"{run}{separator}{part}" if run else part
    if run:
        yield run


def cut_text(text: str, most: int = MOST_CHARACTERS) -> Iterator[str]:
    """Return the text in parts of at most `most` characters, which together are the text."""
    start = 0
    while len(text) - start > most:
        stop = _place_to_cut(text, start, start + most)
        yield text[start:stop]
        start = stop
    yield text[start:]


def _place_to_cut(text: str, start: int, most: int) -> int:
    """Behind the last sentence of the second half, else behind the last word, else at the end."""
    for marks in (SENTENCE_ENDS, (" ",)):
        found = max(text.rfind(mark, (start + most) // 2, most) + len(mark) for mark in marks)
        if found > (start + most) // 2:
            return min(found, most)
    return most


def _json_lines(path: Path) -> Iterator[Row]:
    with open_text(path) as file:
        for number, line in enumerate(lines_of(file, path), start=1):
            if line.strip():
                where = f"{path}, line {number}"
                yield parse_json(line, where), where


def _json(path: Path) -> Iterator[Row]:
    """Return a list of rows, by itself or as `data`, or one row; else lines, which many a .json file of data has."""
    with open_text(path) as file:
        first = next((line for line in lines_of(file, path) if line.strip()), "")
    try:
        in_lines = "data" not in dict(json.loads(first))
    except (ValueError, TypeError, RecursionError):
        in_lines = False
    if in_lines:
        yield from _json_lines(path)
        return
    with open_text(path) as file:
        content = parse_json(whole(file, path), str(path))
    rows = content["data"] if isinstance(content, dict) and "data" in content else content
    if not isinstance(rows, list):
        rows = [rows]
    yield from ((row, f"{path}, entry {number}") for number, row in enumerate(rows, start=1))


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(MOST_IN_LINE)
    with open_text(path) as file:
        try:
            rows = csv.DictReader(file, restkey="", strict=True)
            yield from ((row, f"{path}, row {number}") for number, row in enumerate(rows, start=1))
        except csv.Error as error:
            raise UserInputError(f"{path} is not CSV: {error}") from error


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield row, f"{path}, row {number}"
    except (OSError, ArrowException) as error:
        raise UserInputError(f"{path} cannot be read as Parquet: {error}") from error


ROWS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
"""The kinds of file that hold rows, by suffix."""
