"""Which layers the stages of a compression found."""

from collections.abc import Mapping
from typing import Any


def chosen_layers(results: Mapping[str, Any]) -> list[int] | None:
    """Return the layers that were dropped, or lost their FFN, or share one, counted from 0 in every stack."""
    for stage in ("drop_layers", "remove_ffns"):
        if stage in results:
            return list(results[stage].layers)
    return list(results["share_ffns"].merged[0].window) if "share_ffns" in results else None
