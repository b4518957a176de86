"""Named choices, with an error that suggests the name that was meant, and the one shape that a choice has."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Generic, TypeVar

from neuromeld.errors import UserInputError


def unknown_name(kind: str, name: str, available: list[str]) -> str:
    """Say that a name is not there: what was given, the nearest, all that exist."""
    near = get_close_matches(name, available, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} Available: {', '.join(available)}"


T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """An immutable mapping from name to `T`; a missing name is a `UserInputError` with a suggestion."""

    def __init__(self, kind: str, entries: Mapping[str, T]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise UserInputError(unknown_name(self.kind, name, list(self._entries)))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class Need(StrEnum):
    """Name what a method asks for beyond the statistics that are taken anyway."""

    BIAS = "a bias in the output matrix"
    GRADIENT = "a backward pass over the calibration data"
    LEARNING = "scores that are learned on the calibration data, four passes and more"
    INVERSE_GRAM = "the inverse of a Gram matrix, several times its memory"
    LEVELS = "where layers share a budget, the losses of some widths of each"
    DISTANCES = "the distance of every neuron to every other"
    STRENGTHS = "how strong every hidden unit is"
    TRANSPORT = "a transport plan"


F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Method(Generic[F]):
    """One entry of a registry: a function, what it needs, and where it is from.

    compute   the function; its name is the method's, the first line of its docstring its summary
    needs     what is collected or asked for only where a method needs it
    source    the publication it follows, if any
    """

    compute: F
    needs: frozenset[Need] = frozenset()
    source: str | None = None

    @property
    def name(self) -> str:
        """The name that recipes use."""
        return str(self.compute.__name__)

    @property
    def summary(self) -> str:
        """One sentence for lists and reports."""
        line = (inspect.getdoc(self.compute) or "").split("\n")[0].replace("`", "")
        return f"{line.removesuffix('.')} ({self.source})." if self.source else line

    def __call__(self, *arguments: Any) -> Any:
        return self.compute(*arguments)


M = TypeVar("M", bound=Method[Any])


def methods(kind: str, *entries: M) -> Registry[M]:
    """Make the registry of some methods, by their names, in this order."""
    return Registry(kind, {entry.name: entry for entry in entries})
