"""Named sources of calibration and evaluation data: every module here is one, and says in `SOURCES` what it is.

To add one, write its file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Literal

from neuromeld.registry import Method, Registry, methods, unknown_name


@dataclass(frozen=True)
class Source(Method[Callable[..., Any]]):
    """A named source, by what it gives.

    kind   `text`: `(split) -> list[Document]`; `images`: `(split) -> LabelledImages`; `pairs`: `() -> list` of a source
           and its target
    """

    kind: Literal["text", "images", "pairs"] = "text"

    @property
    def name(self) -> str:
        """The name that recipes use."""
        return super().name.replace("_", "-")


def _sources() -> list[Source]:
    names = [found.name for found in iter_modules(__path__) if not found.name.startswith("_")]
    modules = [import_module(f"{__name__}.{name}") for name in names]
    return [source for module in modules for source in module.SOURCES]


_ALL = _sources()

TEXT_SOURCES: Registry[Source] = methods("text source (or file:PATH)", *(s for s in _ALL if s.kind == "text"))
IMAGE_SOURCES: Registry[Source] = methods("image source (or file:FOLDER)", *(s for s in _ALL if s.kind == "images"))
PAIR_SOURCES: Registry[Source] = methods("source of text pairs (or file:PATH)", *(s for s in _ALL if s.kind == "pairs"))


def unknown_source(name: str) -> list[str]:
    """Return what is wrong with a source that is neither a file nor a named one of any kind."""
    named = [*TEXT_SOURCES, *PAIR_SOURCES, *IMAGE_SOURCES]
    wrong = not name.startswith("file:") and name not in named
    return [unknown_name("source of data (or file:PATH)", name, named)] if wrong else []


__all__ = ["IMAGE_SOURCES", "PAIR_SOURCES", "TEXT_SOURCES", "Source", "unknown_source"]
