"""The options of the stage `vocabulary`."""

from pydantic import Field, field_validator, model_validator

from neuromeld.settings import check_ratio
from neuromeld.stages.base import StageOptions


class VocabularyOptions(StageOptions):
    """Keep the tokens that a text uses.  One of `ratio`, `size` and `coverage` sets how many, of each vocabulary."""

    text: str = Field(
        description="Text or pairs that say which tokens stay: named ones, or file:PATH.",
        json_schema_extra={"flag": "--vocab-from"},
    )
    ratio: float | None = Field(
        None, description="Share of the vocabulary's rows to keep.", json_schema_extra={"target": True}
    )
    size: int | None = Field(None, ge=1, description="Tokens to keep.", json_schema_extra={"target": True})
    coverage: float | None = Field(
        None,
        description="Share of the text's tokens, as split before, that must stay.",
        json_schema_extra={"target": True},
    )

    @field_validator("ratio", "coverage")
    @classmethod
    def _shares(cls, value: float | None) -> float | None:
        return check_ratio("ratio or coverage", value)

    @model_validator(mode="after")
    def _consistent(self) -> "VocabularyOptions":
        if sum(value is not None for value in (self.ratio, self.size, self.coverage)) != 1:
            raise ValueError("give one of ratio, size and coverage")
        return self
