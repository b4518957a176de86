"""`wikitext2` and `c4`: data sets with splits of their own, read from the Hugging Face Hub."""

import itertools
import re
from collections.abc import Iterable
from typing import Any

from neuromeld.data.sources import Source
from neuromeld.data.splits import Document, Split
from neuromeld.errors import UserInputError

C4_DOCUMENTS = 10_000
"""How much of C4 is read for each split, from the start of the stream: about 5 million tokens."""

ARTICLE_TITLE = re.compile(r" = [^=].* = \n")


def hub_rows(name: str, config: str, split: str, *, source: str, num_rows: int | None = None) -> list[str]:
    """Return the `text` column of a data set's split; with `num_rows` only so many rows are downloaded, the first."""
    import datasets  # half a second that offline sources need not pay

    try:
        rows: Iterable[Any] = datasets.load_dataset(name, config, split=split, streaming=num_rows is not None)
        return [row["text"] for row in itertools.islice(rows, num_rows)]
    except OSError as error:
        raise UserInputError(
            f"{source!r} is the data set {name} of the Hugging Face Hub, which cannot be reached ({error}); "
            "without a connection use wikipedia-sample, news-sample, python-docs or file:PATH"
        ) from error


def wikitext2(split: Split) -> list[Document]:
    """WikiText-2 (raw): train is for calibration, in articles; validation and test are for evaluation.

    These two are one document each, their rows joined by blank lines: published perplexities are measured so.
    """
    hub_split = {"calibration": "train", "validation": "validation", "evaluation": "test"}[split]
    rows = hub_rows("Salesforce/wikitext", "wikitext-2-raw-v1", hub_split, source="wikitext2")
    if split != "calibration":
        return [Document(f"wikitext2 {hub_split}", "\n\n".join(rows))]
    titles = [index for index, row in enumerate(rows) if ARTICLE_TITLE.fullmatch(row)]
    articles = (rows[start:stop] for start, stop in itertools.pairwise([*titles, len(rows)]))
    return [Document(article[0].strip(" =\n"), "\n\n".join(article)) for article in articles]


def c4(split: Split) -> list[Document]:
    """Read the first web pages of C4 (English): train is for calibration; those of its validation split are shared
    between validation (the first tenth) and evaluation (the rest)."""
    hub_split = "train" if split == "calibration" else "validation"
    rows = hub_rows("allenai/c4", "en", hub_split, source="c4", num_rows=C4_DOCUMENTS)
    pages = [Document(f"c4 {hub_split} {number}", row) for number, row in enumerate(rows)]
    tenth = len(pages) // 10
    return {"calibration": pages, "validation": pages[:tenth], "evaluation": pages[tenth:]}[split]


SOURCES = (
    Source(wikitext2, source="arXiv:1609.07843"),
    Source(c4, source="arXiv:1910.10683"),
)
