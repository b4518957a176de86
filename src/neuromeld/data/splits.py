"""Documents, and the rule that divides those of one source into calibration, validation and evaluation."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from neuromeld.errors import UserInputError

Split = Literal["calibration", "validation", "evaluation"]

CALIBRATION_SHARE = 0.6
VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Document:
    """One text that is never divided between two splits."""

    name: str
    text: str


def split_of(document: Document) -> Split:
    """Return the split a document belongs to: a function of its name and text alone, so a growing source moves
    nothing.
    """
    return split_of_content(hashlib.sha256(f"{document.name}\0{document.text}".encode()).digest())


def split_of_content(digest: bytes) -> Split:
    """Return the split of what has this sha256."""
    position = int.from_bytes(digest[:8]) / 2**64
    if position < CALIBRATION_SHARE:
        return "calibration"
    return "validation" if position < CALIBRATION_SHARE + VALIDATION_SHARE else "evaluation"


def select_split(documents: Iterable[Document], split: Split, *, source: str) -> list[Document]:
    """Return the documents of one split, in order.  `UserInputError` when there is none."""
    number, selected = 0, []
    for document in documents:
        number += 1
        if split_of(document) == split:
            selected.append(document)
    if not selected:
        raise UserInputError(
            f"{source} has {number} documents and none of them falls to the {split} split "
            "(60 % calibration, 10 % validation, 30 % evaluation, by document); "
            "give it more documents (30 or more are safe) or use another source"
        )
    return selected
