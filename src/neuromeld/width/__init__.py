"""Narrow the residual stream: selector, merge and decoder give a width map, and a width map narrows a model."""

from neuromeld.width.fit import FittedRun, collect, empty_statistics, fit_run
from neuromeld.width.options import Width
from neuromeld.width.residual import Narrowed, narrow_residual
from neuromeld.width.width_map import Basis, WidthMap, basis_of, shortcut

__all__ = [
    "Basis",
    "FittedRun",
    "Narrowed",
    "Width",
    "WidthMap",
    "basis_of",
    "collect",
    "empty_statistics",
    "fit_run",
    "narrow_residual",
    "shortcut",
]
