"""Narrow the residual stream: selector, merge and decoder give a width map, and a width map narrows a model."""

from neuromeld.stages.width.fit import FittedRun, collect, empty_statistics, fit_run
from neuromeld.stages.width.options import Width
from neuromeld.stages.width.residual import WidthResult, narrow_residual
from neuromeld.stages.width.width_map import Basis, WidthMap, basis_of, shortcut

__all__ = [
    "Basis",
    "FittedRun",
    "Width",
    "WidthMap",
    "WidthResult",
    "basis_of",
    "collect",
    "empty_statistics",
    "fit_run",
    "narrow_residual",
    "shortcut",
]
