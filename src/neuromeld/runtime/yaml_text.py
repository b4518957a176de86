"""YAML that somebody wrote: plain values only, no key twice, and no more of it than a person writes."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from neuromeld.errors import UserInputError

MOST_BYTES = 2**20
MOST_NODES = 2**16
"""Values in a file, those that aliases stand for included: aliases of aliases can stand for any number."""


def read_yaml_file(path: Path, what: str) -> Any:
    """Read a YAML file in UTF-8 (or UTF-16 with a byte order mark); `UserInputError` where there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # a name may hold what no name can
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserInputError(f"cannot read the {what} {path}: {reason}") from None
    if len(data) > MOST_BYTES:
        raise UserInputError(f"{path} is no {what}: it has more than {MOST_BYTES:,} bytes")
    return parse_yaml(data, str(path))


def parse_yaml(data: bytes | str, where: str) -> Any:
    """Parse a piece of YAML, by the safe loader; `UserInputError`, beginning with `where`, for what is not YAML."""
    try:
        loader = yaml.SafeLoader(data)
        node = loader.get_single_node()
        if node is None:
            return None
        _size(node, {})
        return loader.construct_document(node)
    # Dates and numbers that there are not are value errors; a list in a list in a list ... is too deep.
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, KeyError, RecursionError) as error:
        raise UserInputError(f"{where} is not valid YAML: {error or type(error).__name__}") from None


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node stands for; `ValueError` for too many, for itself in itself, for a key twice."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise ValueError(f"an alias stands for what it is in{node.start_mark}")
        return known[id(node)]
    known[id(node)] = 0
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        parts = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    size = 1 + sum(_size(part, known) for part in parts)
    if size > MOST_NODES:
        raise ValueError(f"it stands for more than {MOST_NODES:,} values{node.start_mark}")
    known[id(node)] = size
    return size


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[Hashable] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if (key.tag, key.value) in seen:
                raise ValueError(f"the key {key.value!r} is there twice{key.start_mark}")
            seen.add((key.tag, key.value))
