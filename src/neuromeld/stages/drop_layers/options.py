"""The options of the stage `drop_layers`."""

from pydantic import Field

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
