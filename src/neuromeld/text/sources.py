"""Where text comes from.  To add a source, write its file and list it here."""

from collections.abc import Callable

from neuromeld.registry import Registry
from neuromeld.text.documents import Document, Split
from neuromeld.text.hub import c4, wikitext2
from neuromeld.text.news import news_sample
from neuromeld.text.python_docs import python_docs
from neuromeld.text.wikipedia import wikipedia_sample

TEXT_SOURCES: Registry[Callable[[Split], list[Document]]] = Registry(
    "text source (or file:PATH)",
    {
        "wikipedia-sample": wikipedia_sample,
        "news-sample": news_sample,
        "python-docs": python_docs,
        "wikitext2": wikitext2,
        "c4": c4,
    },
)
