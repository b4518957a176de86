"""Read and write a value of a config by its key, in which dots lead into the configs that it is made of, and a number
at the end into a list."""

from typing import Any


def _owner(config: Any, key: str) -> tuple[Any, str]:
    *parts, last = key.split(".")
    for part in parts:
        config = getattr(config, part)
    return config, last


def in_list(key: str) -> bool:
    """Tell whether a key is that of an entry of a list."""
    return key.rpartition(".")[2].isdigit()


def read_key(config: Any, key: str, default: Any = None) -> Any:
    """Return the value of a key, `default` where there is none."""
    owner, last = _owner(config, key)
    return owner[int(last)] if in_list(key) else getattr(owner, last, default)


def write_key(config: Any, key: str, value: Any) -> None:
    """Set the value of a key."""
    if in_list(key):
        path, _, number = key.rpartition(".")
        entries = list(read_key(config, path))
        entries[int(number)] = value
        key, value = path, entries
    owner, last = _owner(config, key)
    setattr(owner, last, value)
