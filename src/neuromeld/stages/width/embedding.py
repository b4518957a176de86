"""Narrow the embeddings, including one whose rows a norm scales before they enter the stream."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.model.capture import norm_epsilon
from neuromeld.model.surgery import read_matrix, read_norm, remove_module, scale_rows, write_matrix
from neuromeld.shapes import ACCUMULATE
from neuromeld.stages.width.consumers import ROWS, narrow_producer
from neuromeld.stages.width.width_map import Basis, centred


@dataclass(frozen=True)
class TiedTable:
    """Sums that a tied head needs of the embedding `E -> T`: `gram = T^T T (k, k)`, `cross = E^T T (d, k)`."""

    gram: Float[Tensor, "k k"]
    cross: Float[Tensor, "d k"]


def narrow_embeddings(model: nn.Module, arch: Architecture, basis: Basis) -> TiedTable | None:
    """Narrow all embeddings in place; the sums over the vocabulary when the head is tied to the first."""
    tokens, *others = arch.spec.embeddings
    full = read_matrix(model, tokens)
    if arch.spec.embedding_norm is None:
        narrow_producer(model, tokens, basis.write)
    else:
        write_matrix(model, tokens, _narrow_normalised(model, arch, full, basis))
    for weight in others:
        narrow_producer(model, weight, basis.write)
    return tied_table(full, read_matrix(model, tokens)) if arch.tied else None


def tied_table(full: Float[Tensor, "v d"], narrow: Float[Tensor, "v k"], rows: int = ROWS) -> TiedTable:
    """Sums over the vocabulary, in blocks of `rows`."""
    k, d = narrow.shape[1], full.shape[1]
    gram = torch.zeros(k, k, dtype=ACCUMULATE, device=full.device)
    cross = torch.zeros(d, k, dtype=ACCUMULATE, device=full.device)
    for e, t in zip(full.split(rows), narrow.split(rows), strict=True):
        t = t.to(ACCUMULATE)
        gram += t.T @ t
        cross += e.to(ACCUMULATE).T @ t
    return TiedTable(gram, cross)


def _narrow_normalised(model: nn.Module, arch: Architecture, full: Tensor, basis: Basis) -> Tensor:
    """Return the table `T` for a stream that starts as `norm(E) = (E - mean) / std * gain + bias`.

    Everything but the division is linear, so it goes into `T` and into a shift; the division becomes one scale a row.
    The norm itself goes: it would normalise what is left of each row, which is not the same.  The mean of each row,
    which a tied head still reads, rides in the direction that no LayerNorm sees.
    """
    norm, embedding = arch.spec.embedding_norm, arch.spec.embeddings[0].path
    assert norm is not None
    assert norm.kind == "layer"
    gain, bias = read_norm(model, norm.path)
    assert bias is not None
    wide = full.to(ACCUMULATE)
    variance = wide.var(1, unbiased=False, keepdim=True)
    scale = torch.rsqrt(variance + norm_epsilon(model.get_submodule(norm.path)))
    linear = centred(basis.write * gain.to(ACCUMULATE)[:, None], "layer")
    linear = linear - linear.mean(1, keepdim=True) + 1 / full.shape[1]
    scale_rows(model, embedding, scale, bias.to(ACCUMULATE) @ basis.write)
    remove_module(model, norm.path)
    return wide @ linear
