"""Where text comes from.  To add a source, write its file and list it here."""

from collections.abc import Callable

from neuromeld.data.splits import Document, Split
from neuromeld.data.text.hub import c4, wikitext2
from neuromeld.data.text.news import news_sample
from neuromeld.data.text.python_docs import python_docs
from neuromeld.data.text.wikipedia import wikipedia_sample
from neuromeld.registry import Registry

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
