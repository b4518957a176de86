"""The options of the stage `experts`."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from neuromeld.registry import unknown_name
from neuromeld.settings import check_ratio
from neuromeld.stages.base import StageOptions
from neuromeld.stages.experts.selectors import SELECTORS


class Experts(StageOptions):
    """Leave fewer experts in every layer of a mixture.  One of `ratio` and `count` sets the target."""

    ratio: float | None = Field(
        None, description="Share of the experts of each layer to keep.", json_schema_extra={"target": True}
    )
    count: int | None = Field(
        None, description="Experts of each layer to keep.", ge=1, json_schema_extra={"target": True}
    )
    selector: str = Field("reap", description="Selector of the experts to keep.")
    merge: Literal["none", "average"] = Field(
        "none",
        description="How removed experts are merged into the kept ones that get their tokens: not at all, or averaged "
        "by their shares, hidden neurons matched to each other.",
    )
    compensate: Literal["ridge", "none"] = Field(
        "ridge",
        description="Refit the output matrix of every kept expert, on the tokens that are sent to it now, to write "
        "what all experts wrote, or leave it.",
    )

    @field_validator("ratio")
    @classmethod
    def _ratio(cls, value: float | None) -> float | None:
        return check_ratio("ratio", value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.selector not in SELECTORS:
            problems.append(unknown_name(SELECTORS.kind, self.selector, list(SELECTORS)))
        if (self.ratio is None) == (self.count is None):
            problems.append("give one of ratio and count")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def changes_neurons(self) -> bool:
        """Whether the neurons of kept experts are looked at, and not the experts as wholes alone."""
        return self.merge != "none" or self.compensate != "none"
