"""neuromeld makes trained Transformers smaller by merging, not deleting."""

from neuromeld.api import CompressResult, choose, compress, plan_for
from neuromeld.data.calibration import Calibration
from neuromeld.modalities import batches_of
from neuromeld.model.native.block import register_native as _register_native
from neuromeld.planning import Budget
from neuromeld.planning.pipeline import Compressed, compress_model
from neuromeld.planning.plan import Plan, make_plan
from neuromeld.planning.recipe import Recipe, load_recipe, parse_recipe
from neuromeld.stages.width import Width
from neuromeld.version import __version__

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
