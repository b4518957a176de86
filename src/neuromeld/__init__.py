"""neuromeld makes trained Transformers smaller by merging, not deleting."""

from neuromeld.checkpoint.native import register_native as _register_native
from neuromeld.compress import CompressResult, choose, compress, plan_for
from neuromeld.inputs import batches_of
from neuromeld.pipeline import Compressed, compress_model
from neuromeld.plan import Plan, make_plan
from neuromeld.planner import Budget
from neuromeld.recipe import Calibration, Recipe, load_recipe, parse_recipe
from neuromeld.version import __version__
from neuromeld.width import Width

_register_native()

__all__ = [
    "Budget",
    "Calibration",
    "CompressResult",
    "Compressed",
    "Plan",
    "Recipe",
    "Width",
    "__version__",
    "batches_of",
    "choose",
    "compress",
    "compress_model",
    "load_recipe",
    "make_plan",
    "parse_recipe",
    "plan_for",
]
