"""Options of stages that take out layers, or a part of them: how many, or which."""

from typing import Self

from pydantic import Field, model_validator

from neuromeld.errors import UserInputError
from neuromeld.stages.base import StageOptions


class LayersOptions(StageOptions):
    """`count` adjacent layers where that hurts least, or `layers`, any of them, counted from 0."""

    count: int | None = Field(None, description="Number of adjacent layers, chosen where the loss rises least.")
    layers: tuple[int, ...] | None = Field(
        None, description="The layers themselves, counted from 0.", json_schema_extra={"metavar": "LAYERS"}
    )

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.count is None) == (self.layers is None):
            raise ValueError("give one of count and layers")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count={self.count} must be at least 1")
        if self.layers is not None and (not self.layers or min(self.layers) < 0):
            raise ValueError(f"layers={list(self.layers)} must be at least one layer, counted from 0")
        return self

    @property
    def number(self) -> int:
        """How many layers are meant."""
        if self.layers is not None:
            return len(set(self.layers))
        assert self.count is not None
        return self.count


def existing(num_layers: int, layers: list[int]) -> set[int]:
    """Return the layers as a set.  `UserInputError` for those that do not exist."""
    chosen = set(layers)
    missing = sorted(layer for layer in chosen if not 0 <= layer < num_layers)
    if missing:
        raise UserInputError(
            f"layers {', '.join(map(str, missing))} do not exist: those of this model are 0 to {num_layers - 1}"
        )
    return chosen
