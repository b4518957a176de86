"""The parts of a recipe that say how the inner spaces of the layers are narrowed."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator, model_validator

from neuromeld.registry import unknown_name
from neuromeld.settings import Settings, check_ratio
from neuromeld.units.merges import MERGES
from neuromeld.units.selectors import SELECTORS

Compensate = Literal["ridge", "bias", "none"]


class Ffn(Settings):
    """How the hidden layers of the FFNs are narrowed.  One of `ratio` and `size` sets the target.

    size        one width for all layers, or one for each
    selector    which hidden neurons to keep
    merge       how the others reach them
    compensate  `ridge` refits the output matrix, `bias` only its bias
    """

    ratio: float | None = None
    size: int | tuple[int, ...] | None = None
    selector: str = "wanda"
    merge: str = "none"
    compensate: Compensate = "ridge"

    @field_validator("ratio")
    @classmethod
    def _ratio(cls, value: float | None) -> float | None:
        return check_ratio("ratio", value)

    @model_validator(mode="after")
    def _consistent(self) -> "Ffn":
        problems = [
            unknown_name(registry.kind, name, list(registry))
            for registry, name in ((SELECTORS, self.selector), (MERGES, self.merge))
            if name not in registry
        ]
        if (self.ratio is None) == (self.size is None):
            problems.append("give one of ratio and size")
        if self.size is not None and min(_listed(self.size)) < 1:
            problems.append(f"size={self.size} must be at least 1 in every layer")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Heads(Settings):
    """How attention is narrowed: whole groups of heads, a key-value head and the query heads that read it.

    num_kv_heads   groups to keep: one number for all layers, or one for each
    selector    which to keep, by the sum of the scores of a group's channels
    compensate  `ridge` refits the output matrix, `bias` only its bias
    """

    num_kv_heads: int | tuple[int, ...]
    selector: str = "wanda"
    compensate: Compensate = "ridge"

    @model_validator(mode="before")
    @classmethod
    def _no_merge(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "merge" in given:
            raise ValueError(
                f"merge={given['merge']!r} is not for heads: averaged groups lose more than a group that is taken out "
                "(docs/decisions/0009); leave merge out, and let compensate=ridge make up for what went"
            )
        return given

    @model_validator(mode="after")
    def _consistent(self) -> "Heads":
        problems = []
        if self.selector not in SELECTORS:
            problems.append(unknown_name(SELECTORS.kind, self.selector, list(SELECTORS)))
        if min(_listed(self.num_kv_heads)) < 1:
            problems.append(f"num_kv_heads={self.num_kv_heads} must be at least 1 in every layer")
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _listed(sizes: int | tuple[int, ...]) -> tuple[int, ...]:
    return (sizes,) if isinstance(sizes, int) else (*sizes, 1)
