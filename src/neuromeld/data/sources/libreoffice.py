"""LibreOffice's help: its German pages, and English and German paragraphs aligned by their ids; Debian's packages."""

from html.parser import HTMLParser
from pathlib import Path

from neuromeld.data.sources import Source
from neuromeld.data.splits import Document, Split, select_split
from neuromeld.errors import UserInputError

HELP = Path("/usr/share/libreoffice/help")
PARAGRAPHS = ("p", "h1", "h2", "h3", "h4", "h5", "h6")
PREFIXES = ("par_id", "hd_id")


def libreoffice_help_en_de(root: Path = HELP) -> list[tuple[str, str]]:
    """Return the paragraphs that both languages have and that differ, each pair once, in the order of the pages."""
    english, german = root / "en-US" / "text", root / "de" / "text"
    if not english.is_dir() or not german.is_dir():
        raise UserInputError(
            f"{root} has no English and German help of LibreOffice: on Debian, "
            "apt-get install --no-install-recommends libreoffice-help-en-us libreoffice-help-de"
        )
    pairs: dict[tuple[str, str], None] = {}
    for page in sorted(english.rglob("*.html")):
        translated = german / page.relative_to(english)
        if translated.is_file():
            targets = paragraphs(translated)
            for name, source in paragraphs(page).items():
                if name in targets and targets[name] != source:
                    pairs[source, targets[name]] = None
    return list(pairs)


def libreoffice_help_de(split: Split, root: Path = HELP) -> list[Document]:
    """Read the German help, a page a document."""
    german = root / "de" / "text"
    if not german.is_dir():
        raise UserInputError(
            f"{root} has no German help of LibreOffice: on Debian, "
            "apt-get install --no-install-recommends libreoffice-help-de"
        )
    pages = ((page, "\n".join(paragraphs(page).values())) for page in sorted(german.rglob("*.html")))
    documents = (Document(str(page.relative_to(german)), text) for page, text in pages if text)
    return select_split(documents, split, source="libreoffice-help-de")


def paragraphs(page: Path) -> dict[str, str]:
    """Return the text of every paragraph and heading of a page of the help, by its id; same ids in all languages."""
    reader = _Paragraphs()
    reader.feed(page.read_text(encoding="utf-8"))
    return {name: text for name, parts in reader.parts.items() if (text := " ".join("".join(parts).split()))}


class _Paragraphs(HTMLParser):
    """The text of every paragraph and heading that has an id, those that are in another element included."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, list[str]] = {}
        self._open: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in PARAGRAPHS:
            name = dict(attrs).get("id") or ""
            self._open = self.parts.setdefault(name, []) if name.startswith(PREFIXES) else None

    def handle_endtag(self, tag: str) -> None:
        if tag in PARAGRAPHS:
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self._open.append(data)


SOURCES = (
    Source(libreoffice_help_en_de, source="LibreOffice help, MPL-2.0", kind="pairs"),
    Source(libreoffice_help_de, source="LibreOffice help in German, MPL-2.0"),
)
