"""Images of one split, and the rule that divides those of one source.

Which split an image falls to depends on its content alone, so that an image that is there twice is in one split only.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuromeld.data.splits import Split, split_of_content
from neuromeld.errors import UserInputError

if TYPE_CHECKING:
    from PIL.Image import Image

INSTALL = "pip install 'neuromeld[images]'"

Pixels = np.ndarray | Path
"""An image as uint8, `(height, width)` or `(height, width, 3)`, or the file that it is in."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images in an order that mixes the classes; `labels` are indices into the names `classes`."""

    classes: tuple[str, ...]
    pixels: list[Pixels]
    labels: list[int]


def content(pixels: Pixels) -> bytes:
    """What identifies an image."""
    return pixels.read_bytes() if isinstance(pixels, Path) else pixels.tobytes()


def by_content(images: Iterable[tuple[Pixels, int]]) -> list[tuple[bytes, Pixels, int]]:
    """The images with their sha256, in its order: the classes are mixed."""
    return sorted(
        ((hashlib.sha256(content(pixels)).digest(), pixels, label) for pixels, label in images),
        key=lambda entry: (entry[0], entry[2]),
    )


def select_split(images: Iterable[tuple[Pixels, int]], split: Split) -> tuple[list[Pixels], list[int]]:
    """The images of one split, and their labels."""
    chosen = [(pixels, label) for digest, pixels, label in by_content(images) if split_of_content(digest) == split]
    return [pixels for pixels, _ in chosen], [label for _, label in chosen]


def rgb(pixels: Pixels) -> "Image":
    """The image in three colours.  `UserInputError` where a file holds none."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise UserInputError(f"images need Pillow, which cannot be imported ({error}): {INSTALL}") from error
    if not isinstance(pixels, Path):
        return Image.fromarray(pixels).convert("RGB")
    try:
        with Image.open(pixels) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise UserInputError(f"{pixels} cannot be read as an image: {error}") from error
