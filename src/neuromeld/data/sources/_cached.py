"""Documents that take seconds to extract, kept in the cache."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from neuromeld.data.splits import Document
from neuromeld.runtime.cache import cache_folder
from neuromeld.runtime.progress import warn


def cached_documents(source: str, key: bytes, extract: Callable[[], Iterable[Document]]) -> list[Document]:
    """Return the documents of a source from the cache; extract and keep them where they are not there.

    key  everything that decides them

    Where the cache cannot be written, that is said, and they are extracted each time.
    """
    path = cache_folder() / "text" / f"{source}-{hashlib.sha256(key).hexdigest()[:16]}.jsonl"
    if not path.exists():
        documents = list(extract())
        try:
            _keep(documents, path)
        except OSError as error:
            warn(f"the text of {source} is not kept, as {path.parent} cannot be written: {error}")
            return documents
    with path.open(encoding="utf-8") as file:
        return [Document(*json.loads(line)) for line in file]


def _keep(documents: Iterable[Document], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        for document in documents:
            file.write(json.dumps([document.name, document.text]) + "\n")
    beside.replace(path)
