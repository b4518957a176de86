"""The options of the stage `heads`."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from neuromeld.registry import unknown_name
from neuromeld.stages.base import StageOptions
from neuromeld.units.compensation import COMPENSATIONS
from neuromeld.units.selectors import SELECTORS, learns


class Heads(StageOptions):
    """Remove whole groups of attention heads: a key-value head and the query heads that read it."""

    num_kv_heads: int | tuple[int, ...] = Field(
        description="Key-value heads to keep in each layer: one number, or one for each layer.",
        json_schema_extra={"flag": "--num-kv-heads", "target": True, "metavar": "NUMBERS"},
    )
    by_layer: bool = Field(
        False,
        description="Let layers keep different numbers of heads, all together as many; learned, under one budget of "
        "parameters with FFNs that differ by layer, too. Needs the selector learned.",
    )
    selector: str = Field("wanda", description="Selector of the heads to keep, by the sum over their channels.")
    compensate: str = Field("ridge", description="Compensation in the output matrix: ridge, bias or none.")

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
        problems = [
            unknown_name(registry.kind, name, list(registry))
            for registry, name in ((SELECTORS, self.selector), (COMPENSATIONS, self.compensate))
            if name not in registry
        ]
        kept = self.num_kv_heads
        if min((kept,) if isinstance(kept, int) else (*kept, 1)) < 1:
            problems.append(f"num_kv_heads={kept} must be at least 1 in every layer")
        if self.by_layer and not isinstance(kept, int):
            problems.append("by_layer finds the number of each layer: give num_kv_heads as one number")
        if self.by_layer and self.selector in SELECTORS and not learns(self.selector):
            problems.append(f"by_layer needs scores that compare layers, and {self.selector} has none: use learned")
        if problems:
            raise ValueError("; ".join(problems))
        return self
