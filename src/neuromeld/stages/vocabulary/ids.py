"""Token ids in configs: which keys hold them, and how they are renumbered."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from neuromeld.errors import UnsupportedModelError

ID_KEYS = re.compile(
    r"(.*_)?token_ids?|.*_token_index|.*_(token|lang|task)_to_id|lang_to_id|task_to_id"
    r"|(begin_)?suppress_tokens|bad_words_ids|force_words_ids|forced_decoder_ids"
)

UNKNOWN = "sequence_bias"
"""A key whose ids stand beside numbers of another kind."""


def renumber(content: Mapping[str, Any], new_id: Callable[[int], int | None]) -> dict[str, Any]:
    """Return the entries of a config that name tokens, renumbered; negative ids, which name none, stay.

    new_id   None for an id without a token, which becomes None where it stands alone, and goes out of lists

    Raises `UnsupportedModelError` for an entry that cannot be read.
    """
    if content.get(UNKNOWN):
        raise UnsupportedModelError(
            f"the generation config has {UNKNOWN}, whose tokens cannot be renumbered: remove it, and write it anew "
            "for the smaller vocabulary"
        )
    found = {}
    for key, value in content.items():
        if ID_KEYS.fullmatch(key) and value is not None:
            found[key] = _forced(value, new_id) if key == "forced_decoder_ids" else _renumbered(value, new_id)
    return found


def named_ids(content: Mapping[str, Any]) -> set[int]:
    """Return all token ids that a config names."""
    found: set[int] = set()

    def note(token: int) -> int:
        found.add(token)
        return token

    renumber(content, note)
    return found


def _renumbered(value: Any, new_id: Callable[[int], int | None]) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return new_id(value) if value >= 0 else value
    if isinstance(value, Mapping):
        return {key: _renumbered(one, new_id) for key, one in value.items()}
    if not isinstance(value, list | tuple):
        return value
    renumbered = (_renumbered(one, new_id) for one in value)
    return [one for one in renumbered if one is not None]


def _forced(pairs: Any, new_id: Callable[[int], int | None]) -> Any:
    """Renumber pairs of a position and the token that is forced there."""
    return [[place, _renumbered(token, new_id)] for place, token in pairs]
