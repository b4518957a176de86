"""The shared ridge refit: the one output matrix that serves all members of a merged window best.

`W, b = argmin sum_i |Z_i W + b - Y_i|^2 + lambda |(W, b) - a (W, b)_combined|^2`, summed over the members `i` of the
window; `Y_i` is what the member's own FF sublayer wrote, its bias included, and `Z_i` its hidden units under the shared
input matrices, both on the original network's stream.  `combine.py` leaves `(W, b)_combined`, which writes too much
where units are not alike: `a` is the factor with which it errs least.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.linalg.ridge import FFN_LAMBDAS, FitReport, best_multiple, refit
from neuromeld.model.capture import Batch
from neuromeld.model.layerwise import LayerInputs, walk_layers
from neuromeld.stages.share_ffns.fused import FusedFfn
from neuromeld.stages.windows import Window
from neuromeld.stats import Cross, CrossMoments
from neuromeld.stats.split import SplitStatistic, held_out_here


@torch.no_grad()
def refit_shared(
    model: nn.Module, arch: Architecture, fused: Sequence[FusedFfn], batches: Sequence[Batch]
) -> list[FitReport]:
    """Fit the output of FFNs anew that windows, all in one stack, are to share, in place; return how well it went.

    batches   at least two, since some are held out

    One walk through the layers of the model, which is left alone, serves all windows.
    Memory: the residual stream of all batches, and sums for as many windows as a layer is in.
    """
    first = max(start for start in arch.stack_offsets if start <= min(one.window[0] for one in fused))
    layers = range(first, max(one.window.stop for one in fused))
    sums: dict[Window, SplitStatistic[CrossMoments]] = {}
    fits: dict[Window, FitReport] = {}
    for inputs in walk_layers(model, arch, batches, layers=layers):
        here = [one for one in fused if inputs.index in one.window]
        for one in here:
            if inputs.index == one.window[0]:
                sums[one.window] = SplitStatistic(partial(CrossMoments, *one.output.shape))
        _add(inputs, here, [sums[one.window] for one in here])
        for one in here:
            if inputs.index == one.window[-1]:
                fits[one.window] = _refit(one, *sums.pop(one.window).finalize())
    return [fits[one.window] for one in fused]


def _add(inputs: LayerInputs, fused: Sequence[FusedFfn], sums: Sequence[SplitStatistic[CrossMoments]]) -> None:
    """Add what each FFN would write from in this layer, and what the layer's own FFN writes."""
    if not fused:
        return
    path = fused[0].output_path
    own, members = inputs.layer.get_submodule(path), [one.in_layer(inputs.layer) for one in fused]
    for b in range(len(inputs.batches)):
        held_out = held_out_here(inputs.batches, b)
        target = own(inputs.called(b, own)[0])
        for member, statistic in zip(members, sums, strict=True):
            consumer = member.get_submodule(path)
            (hidden,) = inputs.called(b, consumer, member)
            statistic.update(held_out, hidden if consumer.bias is None else with_one(hidden), target)


def _refit(fused: FusedFfn, fitted: Cross, held_out: Cross) -> FitReport:
    initial = fused.output
    found = refit(fitted, held_out, initial, FFN_LAMBDAS, towards=best_multiple(fitted, initial))
    fused.write_output(found.matrix)
    return found.fit


def with_one(x: Float[Tensor, "n f"]) -> Float[Tensor, "n g"]:
    """Append a column of ones, whose coefficient is a bias."""
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
