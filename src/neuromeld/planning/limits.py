"""The memory that choosing a recipe may take, here and on a device, and what it takes."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.sizes import sizes_of
from neuromeld.data.calibration import BATCH_WINDOWS, Calibration
from neuromeld.errors import UserInputError
from neuromeld.planning.memory import Footprint
from neuromeld.planning.plan import architecture_of, converted_bytes, make_plan
from neuromeld.planning.recipe import Recipe
from neuromeld.stages.base import Cost, Target, Workload
from neuromeld.stages.teaching import backward_bytes, light_backward_bytes


@dataclass(frozen=True)
class Limits:
    """Bytes that a job may take of memory, and of its device; None is no limit."""

    max_memory: int | None = None
    device_memory: int | None = None

    def refusal(self, model: PreTrainedModel, recipe: Recipe, arch: Architecture) -> str | None:
        """Say why a recipe takes more, None where it does not."""
        try:
            make_plan(model, recipe, arch=arch, max_memory=self.max_memory, device_memory=self.device_memory)
        except UserInputError as error:
            return str(error)
        return None


NO_LIMITS = Limits()


def footprint_of_choice(model: PreTrainedModel, calibration: Calibration, dtype: torch.dtype) -> Footprint:
    """Return what sensitivities take, and the weights of a candidate beside those of the model.

    Each candidate has a plan of its own, which says what building it takes.
    """
    arch = architecture_of(model)
    sizes = sizes_of(arch, model.config)
    batch_tokens = BATCH_WINDOWS * calibration.seqlen
    target, seqlen = Target(arch, sizes, "native"), calibration.seqlen
    work = Workload(target, target.arch, sizes, sizes, calibration.tokens, seqlen, batch_tokens, dtype.itemsize)
    weights = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    cost = Cost(working_bytes=weights + backward_bytes(work), mapped_bytes=light_backward_bytes(work))
    return Footprint([cost], work, weights, converted_bytes(model, arch, dtype), copies=2)
