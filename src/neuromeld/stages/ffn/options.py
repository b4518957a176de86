"""The options of the stage `ffn`."""

from pydantic import Field, field_validator, model_validator

from neuromeld.registry import unknown_name
from neuromeld.settings import check_ratio
from neuromeld.stages.base import StageOptions
from neuromeld.units.compensation import COMPENSATIONS
from neuromeld.units.merges import MERGES
from neuromeld.units.selectors import SELECTORS, measures_levels, sees_whole_model


class Ffn(StageOptions):
    """Narrow the hidden layers of the FFNs.  One of `ratio` and `size` sets the target."""

    ratio: float | None = Field(
        None, description="Share of the hidden neurons of each FFN to keep.", json_schema_extra={"target": True}
    )
    size: int | tuple[int, ...] | None = Field(
        None,
        description="Hidden neurons of each FFN to keep: one number, or one for each layer.",
        json_schema_extra={"target": True, "metavar": "NUMBERS"},
    )
    by_layer: bool = Field(
        False,
        description="Let layers keep different numbers of neurons, all together as many: the selector decides, which "
        "must compare layers (learned, obs, taylor).",
    )
    selector: str = Field("wanda", description="Selector of the hidden neurons to keep.")
    merge: str = Field("none", description="How removed neurons are merged into kept ones: none, transport or kmeans.")
    compensate: str = Field("ridge", description="Compensation in the output matrix: ridge, bias or none.")

    @property
    def _compares_layers(self) -> bool:
        return sees_whole_model(self.selector) or measures_levels(self.selector)

    @field_validator("ratio")
    @classmethod
    def _ratio(cls, value: float | None) -> float | None:
        return check_ratio("ratio", value)

    @model_validator(mode="after")
    def _consistent(self) -> "Ffn":
        chosen = ((SELECTORS, self.selector), (MERGES, self.merge), (COMPENSATIONS, self.compensate))
        problems = [unknown_name(table.kind, name, list(table)) for table, name in chosen if name not in table]
        if (self.ratio is None) == (self.size is None):
            problems.append("give one of ratio and size")
        if (isinstance(self.size, int) and self.size < 1) or (
            isinstance(self.size, tuple) and min(self.size, default=1) < 0
        ):
            problems.append(f"size={self.size} must be at least 1 in every layer")
        if self.by_layer and isinstance(self.size, tuple):
            problems.append("by_layer finds the size of each layer: give size as one number, or ratio")
        if self.by_layer and self.selector in SELECTORS and not self._compares_layers:
            problems.append(f"by_layer needs scores that compare layers, and {self.selector} has none: use learned")
        if problems:
            raise ValueError("; ".join(problems))
        return self
