"""Named choices, with an error that suggests the name that was meant."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Generic, TypeVar

from neuromeld.errors import UserInputError


def unknown_name(kind: str, name: str, available: list[str]) -> str:
    """The sentence for a name that is not there: what was given, the nearest, all that exist."""
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
