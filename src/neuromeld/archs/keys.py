"""Read and write a value of a config by its key, in which dots lead into the configs that it is made of."""

from typing import Any


def _owner(config: Any, key: str) -> tuple[Any, str]:
    *parts, last = key.split(".")
    for part in parts:
        config = getattr(config, part)
    return config, last


def read_key(config: Any, key: str, default: Any = None) -> Any:
    """Return the value of a key, `default` where there is none."""
    owner, last = _owner(config, key)
    return getattr(owner, last, default)


def write_key(config: Any, key: str, value: Any) -> None:
    """Set the value of a key."""
    owner, last = _owner(config, key)
    setattr(owner, last, value)
