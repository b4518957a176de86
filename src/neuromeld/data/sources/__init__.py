"""Named sources of calibration and evaluation data: every module here is one, and says in `SOURCES` what it is.

To add one, write its file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Literal

from neuromeld.data.mixture import OWN, parse_mixture
from neuromeld.errors import UserInputError
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
    """Return what is wrong with a source, or with a mixture of several: a file, a named one of any kind, or `self`."""
    named = [*TEXT_SOURCES, *PAIR_SOURCES, *IMAGE_SOURCES, OWN]
    try:
        sources = [part.source for part in parse_mixture(name)]
    except UserInputError as error:
        return [str(error)]
    wrong = [source for source in sources if not source.startswith("file:") and source not in named]
    return [unknown_name("source of data (or file:PATH)", source, named) for source in wrong]


__all__ = ["IMAGE_SOURCES", "PAIR_SOURCES", "TEXT_SOURCES", "Source", "unknown_source"]
