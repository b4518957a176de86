"""Several texts as one, by weight: `wikipedia-sample:2,file:mine.jsonl:1,self:1`."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from neuromeld.errors import UserInputError

OWN = "self"
"""The text that a model writes itself, among sources."""

_NEXT = re.compile(r",(?=\s*(?:file:|[A-Za-z0-9_-]*(?::[^,/]*)?\s*(?:,|$)))")
"""A comma behind which another source begins; one in the path of a file is left alone."""

_FILE_WEIGHT = re.compile(r"file:.+:[0-9.]+")


@dataclass(frozen=True)
class Part:
    """One source of a mixture, and its weight."""

    source: str
    weight: float = 1.0


def parse_mixture(text: str) -> list[Part]:
    """Return the parts of a source: one of weight 1 for a plain name or `file:PATH`.

    `UserInputError` for a weight that is no positive number, and for a source that is named twice.
    """
    parts = [_part(piece.strip()) for piece in _NEXT.split(text)]
    names = [part.source for part in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserInputError(f"{text}: {', '.join(twice)} is named twice; name each source once, with its weight")
    return parts


def listed_sources(text: str) -> list[str]:
    """Return the sources of a list with commas between, each of which counts by itself: `news-sample,file:mine.jsonl`.

    `UserInputError` for weights, and for a source that is named twice.
    """
    parts = parse_mixture(text)
    weighted = next((part for part in parts if part.weight != 1), None)
    if weighted is not None:
        raise UserInputError(
            f"{text}: each text is measured by itself, so {weighted.source} has no weight; leave "
            f":{weighted.weight:g} out"
        )
    return [part.source for part in parts]


def _part(piece: str) -> Part:
    if piece.startswith("file:") and not _FILE_WEIGHT.fullmatch(piece):
        return Part(piece)
    name, colon, stated = piece.rpartition(":")
    if not colon:
        return Part(piece)
    try:
        weight = float(stated)
    except ValueError:
        weight = math.nan
    if not name or not 0 < weight < math.inf:
        raise UserInputError(
            f"{piece}: {stated!r} is no weight; give a positive number, as in wikipedia-sample:2,file:mine.jsonl:1"
        )
    return Part(name, weight)


def first_named(source: str) -> str | None:
    """Return the first text of a mixture that is there already; None where the model writes all of it."""
    return next((part.source for part in parse_mixture(source) if part.source != OWN), None)


def check_not_own(source: str | None) -> None:
    """Raise `UserInputError` where a job whose weights lie elsewhere is to read text that the model writes."""
    if any(part.source == OWN for part in parse_mixture(source or "")):
        raise UserInputError(
            "--max-memory and --device-memory leave the weights elsewhere, where a model is too slow to write text: "
            f"name another text than {OWN}"
        )


def divided(total: int, weights: Sequence[float]) -> list[int]:
    """Divide a number of things by weight, to whole numbers whose sum it is: the largest remainders are rounded up."""
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [int(share) for share in exact]
    behind = sorted(range(len(exact)), key=lambda part: shares[part] - exact[part])
    for part in behind[: total - sum(shares)]:
        shares[part] += 1
    return shares
