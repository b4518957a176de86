from .api import CompressResult, calibration_batches, choose, compress, plan
from .data.calibration import Calibration
from .errors import CheckpointError, NeuromeldError, NumericsError, UnsupportedModelError, UserInputError
from .jobs.export import ExportResult, export
from .modalities import batches_of
from .modalities.compare import evaluate
from .modalities.request import EvaluationRequest
from .planning.budget import Budget
from .planning.choice import Choice
from .planning.pipeline import Compressed, compress_model
from .planning.plan import Plan, make_plan
from .planning.recipe import Recipe, load_recipe, parse_recipe
from .recovery import RecoverResult, Recovery, Teaching, TeachResult, load_recovery, parse_recovery, recover, teach
from .stages.drop_layers import DropLayers
from .stages.ffn import Ffn
from .stages.heads import Heads
from .stages.remove_ffns import RemoveFfns
from .stages.share_ffns import ShareFfns
from .stages.width import Width
from .version import __version__

__all__ = [
    "Budget",
    "Calibration",
    "CheckpointError",
    "Choice",
    "CompressResult",
    "Compressed",
    "DropLayers",
    "EvaluationRequest",
    "ExportResult",
    "Ffn",
    "Heads",
    "NeuromeldError",
    "NumericsError",
    "Plan",
    "Recipe",
    "RecoverResult",
    "Recovery",
    "RemoveFfns",
    "ShareFfns",
    "TeachResult",
    "Teaching",
    "UnsupportedModelError",
    "UserInputError",
    "Width",
    "__version__",
    "batches_of",
    "calibration_batches",
    "choose",
    "compress",
    "compress_model",
    "evaluate",
    "export",
    "load_recipe",
    "load_recovery",
    "make_plan",
    "parse_recipe",
    "parse_recovery",
    "plan",
    "recover",
    "teach",
]
