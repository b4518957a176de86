"""The options of the stage `embedding`."""

from pydantic import Field, field_validator

from neuromeld.stages.base import StageOptions


class EmbeddingOptions(StageOptions):
    """Factor embedding and head into a narrow table and a small matrix."""

    rank: float = Field(
        description="Width of the table: a number, or a share of the width, 1 or less.",
        json_schema_extra={"target": True, "metavar": "N|SHARE"},
    )

    @field_validator("rank")
    @classmethod
    def _rank(cls, value: float) -> float:
        if value <= 0 or (value > 1 and value != round(value)):
            raise ValueError(f"rank={value} must be a share in (0, 1], or a whole number from 2 on")
        return value

    def of(self, width: int) -> int:
        """Return the rank for a width of the stream."""
        return int(self.rank) if self.rank > 1 else max(1, round(self.rank * width))
