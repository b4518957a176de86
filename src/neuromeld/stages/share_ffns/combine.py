"""From the FF sublayers of a window, units aligned, to one: their average, or of each slot the strongest unit.

A slot is a hidden unit of the anchor with the units that were matched to it.  A unit is as strong as what it writes:
the root mean square of its activation times the norm of its row of the output matrix (the score of Wanda,
arXiv:2306.11695, for a whole unit).  Units that are alike may be averaged; of units that are not, the average does the
work of none.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space
from neuromeld.model.capture import Batch, capture_inputs
from neuromeld.model.surgery import copy_structure, mixed_outputs, read_bias, read_matrix, write_bias, write_matrix
from neuromeld.registry import Method, Need, methods
from neuromeld.shapes import ACCUMULATE
from neuromeld.stages.share_ffns.fused import FusedFfn
from neuromeld.stages.share_ffns.mergeable import check_mergeable
from neuromeld.stages.windows import Window
from neuromeld.stats import Energy
from neuromeld.stats.base import reduce


def collect_strengths(
    model: nn.Module,
    arch: Architecture,
    windows: Iterable[Window],
    batches: Sequence[Batch],
    advance: Callable[[int], None] = lambda _: None,
) -> dict[int, Float64[Tensor, " f"]]:
    """Return the strength of every hidden unit, by layer.  `UserInputError` for a window that cannot be merged."""
    layers: set[int] = set()
    for window in windows:
        check_mergeable(model, arch, window)
        layers |= set(window)
    consumers = {layer: arch.consumer(layer, Space.FFN) for layer in sorted(layers)}
    energies = {weight.path: Energy(arch.widths[Space.FFN]) for weight in consumers.values()}
    capture_inputs(model, arch, list(energies), batches, lambda path, x: energies[path].update(x), advance)
    reduce(*energies.values())
    rows = {layer: read_matrix(model, weight).to(ACCUMULATE).norm(dim=1) for layer, weight in consumers.items()}
    return {layer: energies[consumers[layer].path].finalize().sqrt() * row for layer, row in rows.items()}


Combine = Method[Callable[[Float64[Tensor, "n f"]], Float64[Tensor, "n f"]]]
"""`strength -> shares`: of each member in each slot, with columns that sum to 1."""


def average(strength: Float64[Tensor, "n f"]) -> Float64[Tensor, "n f"]:
    """Average the units of every slot."""
    return torch.full_like(strength, 1 / len(strength))


def strongest(strength: Float64[Tensor, "n f"]) -> Float64[Tensor, "n f"]:
    """Keep of every slot the unit that writes most."""
    return torch.zeros_like(strength).scatter_(0, strength.argmax(0, keepdim=True), 1)


COMBINES = methods(
    "combine", Method(average, source="arXiv:2501.06126"), Method(strongest, frozenset({Need.STRENGTHS}))
)


def fuse(
    model: nn.Module,
    arch: Architecture,
    window: Window,
    orders: Int64[Tensor, "n f"],
    shares: Float64[Tensor, "n f"],
) -> FusedFfn:
    """Return the one sublayer that the layers of the window are to share; the model is left alone.

    orders    of each member, the unit that goes into each slot
    shares    of each member in each slot; what has no slots, the output bias, is averaged
    """
    layer = copy_structure(model.get_submodule(arch.layer_path(window[0])))
    fused = FusedFfn(arch, window, layer)
    for weight in fused.weights:
        hidden_is_out = weight.out == Space.FFN
        matrices, biases = [], []
        for member, order in zip(window, orders, strict=True):
            own = model.get_submodule(arch.layer_path(member))
            matrix, bias = read_matrix(own, weight).to(ACCUMULATE), read_bias(own, weight)
            matrices.append(mixed_outputs(weight, matrix, order) if hidden_is_out else matrix[order])
            if bias is not None:
                bias = bias.to(ACCUMULATE)
                biases.append(mixed_outputs(weight, bias, order) if hidden_is_out else bias)
        by_slot = shares.to(matrices[0].device)
        by_slot = by_slot.repeat(1, weight.repeats) if hidden_is_out else by_slot
        write_matrix(layer, weight, sum_of(matrices, by_slot[:, None] if hidden_is_out else by_slot[:, :, None]))
        if biases:
            write_bias(layer, weight, sum_of(biases, by_slot if hidden_is_out else average(by_slot[:, :1])))
    return fused


def sum_of(tensors: Sequence[Float[Tensor, "..."]], shares: Float64[Tensor, "n ..."]) -> Float[Tensor, "..."]:
    """Return the sum of tensors, each times its share, which broadcasts against them."""
    return (torch.stack(list(tensors)) * shares).sum(0)
