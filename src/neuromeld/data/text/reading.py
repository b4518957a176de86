"""Text files as lines: what they are encoded and packed in is found out, what cannot be text is refused by name."""

import bz2
import codecs
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuromeld.errors import UserInputError

MOST_IN_LINE = 2**28
"""Characters of one line, and of a file that is read as a whole: what is packed may be much longer than its file."""

PACKED: dict[str, Any] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
"""How a packed file is opened, by its last suffix."""

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it starts with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
HEAD = 4096


def local_path(source: str) -> Path:
    """Return the path in `file:PATH`; `~` stands for the home folder."""
    path = source.removeprefix("file:")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserInputError(f"{path}: there is no such user") from error


def kind_of(path: Path) -> str:
    """Return the suffix that says what a file holds, in lower case, without that of its packing."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:-1] if suffixes[-1:] and suffixes[-1] in PACKED else suffixes[-1:])


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a file as text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, packed or not.

    `UserInputError` for whatever is wrong with it, also while it is read in the block.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserInputError(f"{path} is not a file")
        with PACKED.get(path.suffix.lower(), Path.open)(path, "rb") as file:
            binary = io.BufferedReader(file)
            yield io.TextIOWrapper(binary, encoding=_encoding(path, binary.peek(HEAD)[:HEAD]))
    except UnicodeError as error:
        raise UserInputError(
            f"{path} cannot be read as UTF-8 text: {error}; if it is text, save it as UTF-8, as in "
            f"iconv -f latin1 -t utf-8 {path.name}"
        ) from error
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserInputError(f"{path} cannot be read: {reason}") from error


def lines_of(file: io.TextIOWrapper, path: Path) -> Iterator[str]:
    """Yield the lines of a file without their ends; `UserInputError` for one beyond `MOST_IN_LINE`."""
    while line := file.readline(MOST_IN_LINE + 1):
        yield _checked(line, path).removesuffix("\n")


def whole(file: io.TextIOWrapper, path: Path) -> str:
    """Read all of a file; `UserInputError` beyond `MOST_IN_LINE`."""
    return _checked(file.read(MOST_IN_LINE + 1), path)


def parse_json(text: str, where: str) -> object:
    """Parse a piece of JSON; `UserInputError`, beginning with `where`, for what is none."""
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers without end, and lists in lists in lists ...
        raise UserInputError(f"{where} is not JSON: {error}") from error
    return found


def _checked(text: str, path: Path) -> str:
    if len(text) > MOST_IN_LINE:
        raise UserInputError(f"{path} has more than {MOST_IN_LINE:,} characters in one piece; divide it into lines")
    return text


def _encoding(path: Path, head: bytes) -> str:
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) > len(head) / 4 and max(even, odd) > 8 * min(even, odd):  # as in text that is mostly ASCII
        return "utf-16-le" if odd > even else "utf-16-be"
    if 0 in head:
        raise UserInputError(f"{path} holds zero bytes, so it is not text")
    return "utf-8"
