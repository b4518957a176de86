"""The output head of a narrow model, tied or not.

With tied embeddings `T = E_tok write`, the head needs a `k x k` adapter `H` between the final norm and `T^T`, since
the norm's gain can no longer be folded into a matrix that the input shares.  When one basis is shared by the whole
model, `H = read diag(g) read^T` is symmetric, and an RMSNorm model may be turned freely: in the eigenbasis of `H` the
adapter is a diagonal, which is the gain of the final norm.  So a stock checkpoint keeps its tie and needs no adapter.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.linalg.ridge import FitReport, refit
from neuromeld.model.surgery import add_linear, read_matrix, read_norm, tie, write_norm
from neuromeld.shapes import ACCUMULATE
from neuromeld.stages.width.consumers import consume, narrow_consumer, narrow_norm, wide_consumer
from neuromeld.stages.width.embedding import TiedTable
from neuromeld.stages.width.width_map import Basis, rotate
from neuromeld.stats import Cross


def diagonal_head_basis(model: nn.Module, arch: Architecture, basis: Basis) -> tuple[Basis, Float[Tensor, "k"]]:
    """Return the basis turned so that the head adapter is diagonal, and that diagonal."""
    gain, _ = read_norm(model, arch.final_norm.path)
    adapter = (basis.read * gain.to(ACCUMULATE)) @ basis.read.T
    diagonal, rotation = torch.linalg.eigh(adapter)
    return rotate(basis, rotation), diagonal


def narrow_head(
    model: nn.Module,
    arch: Architecture,
    basis: Basis,
    table: TiedTable | None,
    moments: tuple[Cross, Cross] | None,
    diagonal: Float[Tensor, "k"] | None,
) -> FitReport | None:
    """Narrow the final norm and the head in place; return how well its refit went, if there was one.

    `moments` are those of the final cut, to fit on and held out, None for no refit.  `diagonal` is set when the final
    norm's gain keeps the tie; it is not refitted, since the least-squares gain raised perplexity (docs/decisions/0004).
    """
    head, norm = arch.head, arch.final_norm
    gain, bias = read_norm(model, norm.path)
    if diagonal is not None:
        write_norm(model, norm.path, diagonal, bias)
        tie(model, head.path, to=arch.spec.embeddings[0].path)
        return None
    read, fit = basis.read, None
    if moments is not None:
        found = refit(*moments, read)
        fit, read = found.fit, found.matrix
    if table is None:
        narrow_consumer(model, wide_consumer(model, head), read)
    else:
        # The head reads `T^T`, so the adapter is what a consumer with the matrix `E_tok^T = C T^T` would become.
        factor = table.cross @ torch.linalg.pinv(table.gram, hermitian=True)
        add_linear(model, "head_adapter", consume(read, gain, bias, factor), like=read_matrix(model, head))
        tie(model, head.path, to=arch.spec.embeddings[0].path)
    narrow_norm(model, norm, basis.width)
    return fit
