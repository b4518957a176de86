"""`wikipedia-sample`: English Wikipedia articles from the dump that gensim ships, with the markup stripped."""

import bz2
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from neuromeld.data.sources import Source
from neuromeld.data.sources._cached import cached_documents
from neuromeld.data.sources._gensim import gensim_file
from neuromeld.data.sources._wikitext import is_disambiguation, strip_markup
from neuromeld.data.splits import Document, Split, select_split

SOURCE = "wikipedia-sample"
DUMP = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"

MIN_CHARACTERS = 1000
"""Shorter articles are a table or a list with no prose around it."""

STRIPPING_VERSION = 1
"""Raise it when what is stripped or kept changes: the cache is keyed by it."""


def wikipedia_sample(split: Split) -> list[Document]:
    """Read Wikipedia articles."""
    return select_split(articles(gensim_file(DUMP, source=SOURCE)), split, source=SOURCE)


def articles(dump: Path) -> list[Document]:
    """Return all articles of a dump as plain text, from the cache when they are there."""
    key = dump.read_bytes() + f"stripping {STRIPPING_VERSION}".encode()
    return cached_documents(SOURCE, key, lambda: _stripped(dump))


def _stripped(dump: Path) -> Iterator[Document]:
    for title, markup in pages(dump):
        if len(text := strip_markup(markup)) >= MIN_CHARACTERS:
            yield Document(title, text)


def pages(dump: Path) -> Iterator[tuple[str, str]]:
    """Return the title and the markup of every article of a MediaWiki dump."""
    with bz2.open(dump) as file:
        for _, element in ElementTree.iterparse(file):
            if not element.tag.endswith("}page"):
                continue
            title, markup = element.findtext("{*}title", ""), element.findtext("{*}revision/{*}text", "")
            in_encyclopedia = element.findtext("{*}ns") == "0" and element.find("{*}redirect") is None
            if in_encyclopedia and not is_disambiguation(markup):
                yield title, markup
            element.clear()


SOURCES = (Source(wikipedia_sample, source="gensim test data, CC BY-SA"),)
