"""What every member of a merged window may keep for itself: a gain for each output, and a matrix of low rank.

`y_i = g_i * (Z_i W + b) + Z_i A_i B_i` for member i, where `W, b` are shared.  The gain is the least-squares one of
each output, so on the tokens it is fitted on it is never worse than 1 (merging) or 0 (deleting).  `A_i B_i` is the
ridge regression of what is still missing, cut to its rank where that costs least on the data (reduced-rank
regression, Izenman 1975).  Each is kept only if it lowers the error on held-out tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import RESIDUAL
from neuromeld.regression import LAMBDAS, is_held_out, relative_error
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats import Cross, CrossMoments
from neuromeld.stats.distributed import place, reduce
from neuromeld.streams import Batch, real_tokens, record_calls
from neuromeld.surgery import add_gain, add_low_rank, read_bias, read_matrix


@dataclass(frozen=True)
class Member:
    """The relative errors of what one member writes, on held-out tokens: as merged, and with what it keeps."""

    layer: int
    error_before: float
    error_after: float


@torch.no_grad()
def fit_members(
    model: nn.Module,
    arch: Architecture,
    originals: Mapping[int, nn.Module],
    batches: Sequence[Batch],
    *,
    gain: bool,
    rank: int,
) -> list[Member]:
    """Fit and attach both for the merged layers of `model`; what is not asked for is not attached.

    originals   copies of those layers from before the merge, adjacent and in order
    batches     at least two, since some are held out

    Memory: the residual stream of all batches, and the Gram matrix of one member twice.
    """
    first = min(originals)
    stack = max(index for index, start in enumerate(arch.starts) if start <= first)
    calls, mask = record_calls(model, arch, batches, stack), arch.stack(first).mask
    stream = calls.hidden
    members = []
    for index in range(arch.starts[stack], max(originals) + 1):
        merged = model.get_submodule(arch.layer_path(index))
        original = originals.get(index, merged)
        if index in originals:
            consumer = arch.consumer(index, "ffn")
            path = consumer.path.removeprefix(arch.layer_path(index) + ".")
            reads, writes = merged.get_submodule(path), original.get_submodule(path)
            sums = [CrossMoments(len(read_matrix(model, consumer)) + 1, arch.widths[RESIDUAL]) for _ in range(2)]
            for b, batch in enumerate(batches):
                z = real_tokens(calls.run_until(merged, index, b, stream[b], reads), batch, mask)
                y = writes(real_tokens(calls.run_until(original, index, b, stream[b], writes), batch, mask))
                sums[is_held_out(*place(batches, b))].update(torch.cat([z, torch.ones_like(z[:, :1])], dim=1), y)
            reduce(*sums)
            members.append(_fit(model, arch, index, sums[0].finalize(), sums[1].finalize(), gain=gain, rank=rank))
        for b, x in enumerate(stream):
            stream[b] = calls.run(original, index, b, x)
    return members


def _fit(
    model: nn.Module, arch: Architecture, layer: int, fitted: Cross, held_out: Cross, *, gain: bool, rank: int
) -> Member:
    consumer = arch.consumer(layer, "ffn")
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
    return Member(layer, before, best)


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
