"""Files with a text each: a folder with a table in it, in which every line is a file's name, a tab and its text."""

from dataclasses import dataclass
from pathlib import Path

from neuromeld.data.splits import Document, Split, select_split
from neuromeld.data.text.reading import lines_of, local_path, open_text
from neuromeld.errors import UserInputError


@dataclass(frozen=True)
class ListedFile:
    """A file, and its text."""

    path: Path
    text: str


def holds_table(source: str | None, table: str) -> bool:
    """Tell whether a source is `file:FOLDER` with a table of this name in it."""
    return source is not None and source.startswith("file:") and (local_path(source) / table).is_file()


def listed_files(source: str, split: Split | None, table: str, needed: str) -> list[ListedFile]:
    """Return the files of one split of `file:FOLDER`, or all for None, in the order of the table.

    needed  what the source should have been, for its error

    Which split a file falls to depends on its name and text alone.  Raises `UserInputError` for a folder or a line that
    cannot be read.
    """
    if not holds_table(source, table):
        raise UserInputError(f"{source} is not {needed}")
    folder = local_path(source)
    path = folder / table
    with open_text(path) as file:
        lines = enumerate(lines_of(file, path), start=1)
        documents = [_listed(folder, line, f"{path}, line {number}") for number, line in lines if line.strip()]
    chosen = documents if split is None else select_split(documents, split, source=str(folder))
    return [ListedFile(folder / document.name, document.text) for document in chosen]


def _listed(folder: Path, line: str, where: str) -> Document:
    """Return the name and the text in a line."""
    name, tab, text = line.partition("\t")
    if not tab:
        reason = "there is no tab"
    elif Path(name).is_absolute() or ".." in Path(name).parts:
        reason = f"{name} is not in that folder"
    elif not (folder / name).is_file():
        reason = f"{folder / name} is not there"
    else:
        return Document(name, text)
    raise UserInputError(f"{where}: {reason}; a line is the name of a file, a tab and its text")
