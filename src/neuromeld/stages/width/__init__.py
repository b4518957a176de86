"""Narrow the residual stream: selector, merge and decoder give a width map, and a width map narrows a model."""

from neuromeld.stages.width.options import Width
from neuromeld.stages.width.stage import WidthResult, WidthStage
from neuromeld.stages.width.width_map import Basis, WidthMap, basis_of, shortcut

__all__ = ["Basis", "Width", "WidthMap", "WidthResult", "WidthStage", "basis_of", "shortcut"]
