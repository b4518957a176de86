"""The options of the stage `drop_layers`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from neuromeld.stages.layers_options import LayersOptions


class DropLayers(LayersOptions):
    """Remove layers: `count` adjacent ones where that hurts least, or `layers`, any of them, counted from 0."""

    count: int | None = Field(
        None,
        description="Adjacent layers to remove, chosen where the loss rises least.",
        json_schema_extra={"flag": "--drop-layers", "target": True},
    )
    layers: tuple[int, ...] | None = Field(
        None,
        description="Layers to remove, counted from 0, as 3-5,8.",
        json_schema_extra={"flag": "--drop-layers-at", "target": True, "metavar": "LAYERS"},
    )
    windows: int = Field(
        1,
        description="Windows that `count` layers are taken from, found one after the other, as long as each other.",
        ge=1,
    )
    compensate: Literal["ridge", "none"] = Field(
        "ridge",
        description="Refit the FFN in front of removed layers to write what they wrote, too (where no norm stands "
        "behind it), or leave it.",
    )

    @model_validator(mode="after")
    def _enough_layers(self) -> Self:
        if self.layers is not None and self.windows > 1:
            raise ValueError("windows are for `count`; `layers` names them all")
        if self.count is not None and self.windows > self.count:
            raise ValueError(f"windows={self.windows} is more than the {self.count} layers to remove")
        return self

    @property
    def lengths(self) -> list[int]:
        """The lengths of the windows, the longest first."""
        return [len(range(window, self.number, self.windows)) for window in range(self.windows)]
