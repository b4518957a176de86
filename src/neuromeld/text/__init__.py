"""Text for calibration and evaluation: named sources, split by document and cut into token windows."""

from neuromeld.text.documents import Document, Split
from neuromeld.text.sources import TEXT_SOURCES
from neuromeld.text.windows import TokenWindows, check_vocabulary, first_windows, read_documents, token_windows

__all__ = [
    "TEXT_SOURCES",
    "Document",
    "Split",
    "TokenWindows",
    "check_vocabulary",
    "first_windows",
    "read_documents",
    "token_windows",
]
