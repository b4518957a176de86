"""Memory of a training of layers, one at a time, predicted from sizes: with the weights in it, or in their files."""

import torch
from transformers import PreTrainedModel

from neuromeld.archs.sizes import sizes_of
from neuromeld.data.calibration import BATCH_WINDOWS, Calibration
from neuromeld.planning.memory import Footprint
from neuromeld.planning.plan import architecture_of
from neuromeld.stages.base import Cost, Target, Workload, largest_layer_bytes
from neuromeld.stages.teaching import activation_bytes
from neuromeld.stages.windows import loss_bytes

COPIES_OF_A_LAYER = 6
"""In float32: as it was, as it is trained, its gradient, two moments, and casts of it and of its gradient."""


def footprint_of_layers(original: PreTrainedModel, weights: int, data: Calibration) -> Footprint:
    """Return what it takes to train each layer towards the original's.

    original   which may have no weights
    weights    bytes of both models as they lie on the disk
    data       that layers are trained on
    """
    arch = architecture_of(original)
    sizes = sizes_of(arch, original.config)
    target, batch_tokens = Target(arch, sizes, "native"), BATCH_WINDOWS * data.seqlen
    in_float32 = torch.float32.itemsize
    work = Workload(target, arch, sizes, sizes, data.tokens, data.seqlen, batch_tokens, in_float32)
    layer = COPIES_OF_A_LAYER * largest_layer_bytes(work) + activation_bytes(arch, batch_tokens, 1)
    streams = 2 * data.tokens * arch.width * in_float32
    parameters = sum(parameter.numel() for parameter in original.parameters())
    cost = Cost(
        working_bytes=parameters * in_float32 + streams + max(layer, loss_bytes(work)),
        mapped_bytes=max(layer, loss_bytes(work)),
    )
    return Footprint([cost], work, weights)
