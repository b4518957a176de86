"""Remove whole layers."""

from neuromeld.stages.drop_layers.options import DropLayers
from neuromeld.stages.drop_layers.pattern import pattern_warning
from neuromeld.stages.drop_layers.stage import DropLayersStage, DroppedLayers, drop_layers

__all__ = ["DropLayers", "DropLayersStage", "DroppedLayers", "drop_layers", "pattern_warning"]
