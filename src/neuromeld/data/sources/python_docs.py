"""`python-docs`: the docstrings of the running Python's standard library, one document a module.

The text depends on the Python version; the hash of the token windows tells two versions apart.
"""

import ast
import sys
import sysconfig
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

from neuromeld.data.sources import Source
from neuromeld.data.sources._cached import cached_documents
from neuromeld.data.splits import Document, Split, select_split

SOURCE = "python-docs"

EXTRACTION_VERSION = 1
"""Raise it when what is taken out changes: the cache is keyed by it."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def module_files() -> Iterator[tuple[str, Path]]:
    """Return the name and the file of every public standard-library module, sorted by name; tests are left out."""
    root = Path(sysconfig.get_path("stdlib"))
    for top in sorted(name for name in sys.stdlib_module_names if not name.startswith("_")):
        for path in [root / f"{top}.py", *sorted((root / top).rglob("*.py"))]:
            parts = path.relative_to(root).with_suffix("").parts
            if path.is_file() and not {"test", "tests", "idle_test"} & set(parts):
                yield ".".join(parts).removesuffix(".__init__"), path


def docstrings(source: bytes) -> str:
    """Return all docstrings of a module, in the order of the file, separated by blank lines."""
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, Documented))
    in_order = sorted(nodes, key=lambda node: getattr(node, "lineno", 0))
    return "\n\n".join(cleandoc(text) for node in in_order if (text := ast.get_docstring(node, clean=False)))


def module_documents() -> list[Document]:
    """Return every module that has docstrings.  Parsing them takes seconds, hence the cache."""
    key = f"{sys.version} {sysconfig.get_path('stdlib')} {EXTRACTION_VERSION}".encode()
    return cached_documents(SOURCE, key, _parsed)


def _parsed() -> Iterator[Document]:
    documents = (Document(name, docstrings(path.read_bytes())) for name, path in module_files())
    return (document for document in documents if document.text)


def python_docs(split: Split) -> list[Document]:
    """Read the documentation of Python's standard library, a module a document."""
    return select_split(module_documents(), split, source=SOURCE)


SOURCES = (Source(python_docs, source="the running Python, PSF licence"),)
