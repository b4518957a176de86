"""Sizes that are one number for all layers, or one for each."""

import math

from neuromeld.errors import UserInputError


def per_layer(name: str, size: int | tuple[int, ...], now: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of each layer.  `UserInputError` for another number of layers, and for more than there is now."""
    sizes = tuple(size if old else 0 for old in now) if isinstance(size, int) else size
    if len(sizes) != len(now):
        raise UserInputError(f"{name} gives {len(sizes)} sizes for {len(now)} layers")
    if any(old and size < 1 for size, old in zip(sizes, now, strict=True)):
        raise UserInputError(f"{name}={','.join(map(str, sizes))} must be at least 1 in every layer that has an FFN")
    too_large = [size for size, old in zip(sizes, now, strict=True) if size > old]
    if too_large:
        raise UserInputError(f"{name}={too_large[0]} is more than the {max(now)} that the model has")
    return sizes


def round_width(width: float, original: int, multiple: int) -> int:
    """Round a width down to a multiple that is asked for and that kernels like: 128 for wide models, else 2."""
    if width >= original:
        return original
    multiple = math.lcm(multiple, 128 if original >= 2048 else 2)
    return math.floor(width / multiple + 1e-9) * multiple
