"""Per-layer corrections that the members of a merged window may keep: a gain for each output, and a matrix of low rank.

`y_i = g_i * (Z_i W + b) + Z_i A_i B_i` for member i, where `W, b` are shared.  The gain is the least-squares one of
each output, so on the tokens it is fitted on it is never worse than 1 (merging) or 0 (deleting).  `A_i B_i` is the
ridge regression of what is still missing, cut to its rank where that costs least on the data (reduced-rank
regression, Izenman 1975).  Each is kept only if it lowers the error on held-out tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space
from neuromeld.linalg.ridge import LAMBDAS, relative_error
from neuromeld.model.capture import Batch
from neuromeld.model.surgery import add_gain, add_low_rank, read_bias, read_matrix
from neuromeld.shapes import ACCUMULATE
from neuromeld.stages.share_ffns.paired_layers import paired_layers
from neuromeld.stages.share_ffns.refit import with_one
from neuromeld.stats import Cross, CrossMoments
from neuromeld.stats.split import SplitStatistic


@dataclass(frozen=True)
class LayerCorrection:
    """The relative errors of what one member writes, on held-out tokens: as merged, and with what it keeps."""

    layer: int
    error_before: float
    error_after: float


@torch.no_grad()
def fit_corrections(
    model: nn.Module,
    arch: Architecture,
    originals: Mapping[int, nn.Module],
    batches: Sequence[Batch],
    *,
    gain: bool,
    rank: int,
) -> list[LayerCorrection]:
    """Fit and attach both for the merged layers of `model`; what is not asked for is not attached.

    originals, batches  as `paired_layers` takes them

    Memory: the residual stream of all batches, and the Gram matrix of one member twice.
    """
    members = []
    for layer in paired_layers(model, arch, originals, batches):
        consumer = arch.consumer(layer.index, Space.FFN)
        path = consumer.path.removeprefix(arch.layer_path(layer.index) + ".")
        sums = SplitStatistic(partial(CrossMoments, len(read_matrix(model, consumer)) + 1, arch.widths[Space.RESIDUAL]))
        for held_out, hidden, own in layer.reads(path):
            sums.update(held_out, with_one(hidden), layer.original.get_submodule(path)(own))
        members.append(_fit(model, arch, layer.index, sums.finalize(), gain=gain, rank=rank))
    return members


def _fit(
    model: nn.Module, arch: Architecture, layer: int, moments: tuple[Cross, Cross], *, gain: bool, rank: int
) -> LayerCorrection:
    fitted, held_out = moments
    consumer = arch.consumer(layer, Space.FFN)
    matrix, bias = read_matrix(model, consumer).to(ACCUMULATE), read_bias(model, consumer)
    last = torch.zeros_like(matrix[:1]) if bias is None else bias.to(ACCUMULATE)[None]
    shared = torch.cat([matrix, last])
    before = best = relative_error(held_out, shared)
    gains = torch.ones_like(shared[0])
    if gain:
        found = output_gains(fitted, shared)
        error = relative_error(held_out, shared * found)
        if error < best:
            gains, best = found, error
        add_gain(model, consumer.path, gains)
    if rank:
        factors = torch.zeros_like(matrix[:, :rank]), torch.zeros_like(matrix[:rank])
        for ridge in LAMBDAS:
            down, up = low_rank(fitted, shared * gains, rank, ridge)
            written = shared * gains
            written[:-1] += down @ up
            error = relative_error(held_out, written)
            if error < best:
                factors, best = (down, up), error
        add_low_rank(model, consumer.path, *factors)
    return LayerCorrection(layer, before, best)


def output_gains(moments: Cross, matrix: Float[Tensor, "k d"]) -> Float[Tensor, " d"]:
    """`g = argmin E|y - (x M) g|^2`, for each output on its own; 1 where `x M` writes nothing."""
    power = (matrix * (moments.gram @ matrix)).sum(0)
    agreement = (matrix * moments.cross).sum(0)
    return torch.where(power > 0, agreement / power, torch.ones_like(power))


def low_rank(
    moments: Cross, matrix: Float[Tensor, "k d"], rank: int, ridge: float
) -> tuple[Float[Tensor, "f r"], Float[Tensor, "r d"]]:
    """`A, B = argmin E|y - x M - z A B|^2 + lambda |A B|^2` of this rank, where `z` is `x` without its last column.

    ridge   `lambda` over the mean diagonal of the Gram matrix
    """
    missing = (moments.cross - moments.gram @ matrix)[:-1]
    gram = moments.gram[:-1, :-1]
    damped = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor = torch.linalg.cholesky(damped)
    # With L L^T the damped Gram matrix, the objective is |L^T A B - L^-1 missing|^2: the best rank is in its SVD.
    whitened = torch.linalg.solve_triangular(factor, missing, upper=False)
    left, values, right = torch.linalg.svd(whitened, full_matrices=False)
    down = torch.linalg.solve_triangular(factor.T, left[:, :rank] * values[:rank], upper=True)
    return down, right[:rank]
