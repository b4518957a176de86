"""Images of one split, and the rule that divides those of one source.

Which split an image falls to depends on its content alone, so that an image that is there twice is in one split only.
"""

import hashlib
import warnings
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
    """Return what identifies an image.  `UserInputError` for a file that cannot be read."""
    if not isinstance(pixels, Path):
        return pixels.tobytes()
    try:
        if not pixels.is_file():
            raise UserInputError(f"{pixels} is not a file, or a link to none; remove it")
        return pixels.read_bytes()
    except OSError as error:
        raise UserInputError(f"{pixels} cannot be read: {error.strerror}") from error


def by_content(images: Iterable[tuple[Pixels, int]]) -> list[tuple[bytes, Pixels, int]]:
    """Return the images with their sha256, in its order: the classes are mixed."""
    return sorted(
        ((hashlib.sha256(content(pixels)).digest(), pixels, label) for pixels, label in images),
        key=lambda entry: (entry[0], entry[2]),
    )


def select_split(images: Iterable[tuple[Pixels, int]], split: Split) -> tuple[list[Pixels], list[int]]:
    """Return the images of one split, and their labels.  `UserInputError` where there is none."""
    ordered = by_content(images)
    chosen = [(pixels, label) for digest, pixels, label in ordered if split_of_content(digest) == split]
    if not chosen:
        raise UserInputError(
            f"of {len(ordered)} images none falls to the {split} split (60 % calibration, 10 % validation, 30 % "
            "evaluation, by content); give more (30 or more are safe)"
        )
    return [pixels for pixels, _ in chosen], [label for _, label in chosen]


def rgb(pixels: Pixels) -> "Image":
    """Return the image in three colours, the first where there are several.

    `UserInputError` where a file holds none.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UserInputError(f"images need Pillow, which cannot be imported ({error}): {INSTALL}") from error
    if not isinstance(pixels, Path):
        return Image.fromarray(pixels).convert("RGB")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(pixels) as image:  # of what is beside the pixels
            if image.mode in ("I", "F"):
                raise ValueError("its numbers have no fixed range; save it with 8 or 16 bits a colour")
            if image.mode.startswith("I;16"):
                return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except Exception as error:  # the decoders have errors of their own, also for what says that it is huge
        raise UserInputError(f"{pixels} cannot be read as an image: {str(error) or type(error).__name__}") from error
