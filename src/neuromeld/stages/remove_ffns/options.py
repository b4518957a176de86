"""The options of the stage `remove_ffns`."""

from pydantic import Field

from neuromeld.stages.layers_options import LayersOptions


class RemoveFfns(LayersOptions):
    """Remove FFNs and keep attention: `count` adjacent ones where that hurts least, or those of `layers`."""

    count: int | None = Field(
        None,
        description="Adjacent FFNs to remove, chosen where the loss rises least; their attention stays.",
        json_schema_extra={"flag": "--remove-ffns", "target": True},
    )
    layers: tuple[int, ...] | None = Field(
        None,
        description="Layers whose FFNs are removed, counted from 0, as 3-5,8.",
        json_schema_extra={"flag": "--remove-ffns-at", "target": True, "metavar": "LAYERS"},
    )
