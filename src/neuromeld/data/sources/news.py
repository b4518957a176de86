"""`news-sample`: the 300 news articles of the Lee background corpus, one a line.

Seven of them are repeated; they share one name so that both copies fall to the same split.
"""

from neuromeld.data.sources import Source
from neuromeld.data.sources._gensim import gensim_file
from neuromeld.data.splits import Document, Split, select_split

SOURCE = "news-sample"


def news_sample(split: Split) -> list[Document]:
    """Read news articles."""
    lines = gensim_file("lee_background.cor", source=SOURCE).read_text(encoding="utf-8").splitlines()
    articles = (Document("Lee background corpus", line.strip()) for line in lines)
    return select_split(articles, split, source=SOURCE)


SOURCES = (Source(news_sample, source="gensim test data, Lee background corpus"),)
