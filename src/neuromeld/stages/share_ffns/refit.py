"""The shared ridge refit: the one output matrix that serves all members of a merged window best.

`W, b = argmin sum_i |Z_i W + b - Y_i|^2 + lambda |(W, b) - a (W, b)_combined|^2`, summed over the members `i` of the
window; `Y_i` is what the member's own FF sublayer wrote, its bias included, and `Z_i` its hidden units under the shared
input matrices, both on the original network's stream.  `combine.py` leaves `(W, b)_combined`, which writes too much
where units are not alike: `a` is the factor with which it errs least.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space
from neuromeld.linalg.ridge import FFN_LAMBDAS, FitReport, best_multiple, refit
from neuromeld.model.capture import Batch
from neuromeld.model.surgery import read_bias, read_matrix, share, write_bias, write_matrix
from neuromeld.shapes import ACCUMULATE
from neuromeld.stages.share_ffns.paired_layers import paired_layers
from neuromeld.stats import CrossMoments
from neuromeld.stats.split import SplitStatistic


@torch.no_grad()
def refit_shared(
    model: nn.Module, arch: Architecture, originals: Mapping[int, nn.Module], batches: Sequence[Batch]
) -> FitReport:
    """RidgeFit the FF output that the merged layers of `model` share, in place.

    originals   copies of those layers from before the merge, adjacent and in order
    batches     at least two, since some are held out

    Returns how well it went.
    """
    consumers = [arch.consumer(layer, Space.FFN) for layer in originals]
    consumer = consumers[0]
    matrix, bias = read_matrix(model, consumer).to(ACCUMULATE), read_bias(model, consumer)
    initial = matrix if bias is None else torch.cat([matrix, bias.to(ACCUMULATE)[None]])
    sums = SplitStatistic(lambda: CrossMoments(len(initial), arch.widths[Space.RESIDUAL]))
    for layer in paired_layers(model, arch, originals, batches):
        path = arch.consumer(layer.index, Space.FFN).path.removeprefix(arch.layer_path(layer.index) + ".")
        for held_out, hidden, own in layer.reads(path):
            target = layer.original.get_submodule(path)(own)
            sums.update(held_out, hidden if bias is None else with_one(hidden), target)
    fitted, tested = sums.finalize()
    found = refit(fitted, tested, initial, FFN_LAMBDAS, towards=best_multiple(fitted, initial))
    width = len(matrix)
    write_matrix(model, consumer, found.matrix[:width])
    if bias is not None:
        write_bias(model, consumer, found.matrix[width])
    share(model, [weight.path for weight in consumers])
    return found.fit


def with_one(x: Float[Tensor, "n f"]) -> Float[Tensor, "n g"]:
    """Append a column of ones, whose coefficient is a bias."""
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
