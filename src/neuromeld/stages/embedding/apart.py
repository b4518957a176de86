"""Narrower tables in front of a LayerNorm, with the map behind it fitted to what the stream had.

The sum `x (e)` of a token's rows passes a LayerNorm and a linear map: `y = a(x) S + b`, where `a(x)` is `x` without its
mean, over its length.  Let `Q (e, r - 1)` be orthonormal, and `C (r, r - 1)` an orthonormal basis of the vectors of `r`
numbers that sum to zero.  Rows `sqrt(r / e) x Q C^T` have the mean square of `x Q`, so a LayerNorm over `r` divides by
as much, and what `a(x)` has in these directions comes out of it (docs/decisions/0053).
"""

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from neuromeld.archs.resolve import find_module
from neuromeld.archs.spec import Space, TablesApart, Weight
from neuromeld.linalg.ridge import refit
from neuromeld.model.capture import capture_inputs
from neuromeld.model.surgery import add_linear, read_bias, read_matrix, read_norm, write_matrix, write_norm
from neuromeld.runtime.progress import tracked
from neuromeld.shapes import ACCUMULATE
from neuromeld.stages.base import Job
from neuromeld.stats.base import reduce
from neuromeld.stats.cross import CrossMoments
from neuromeld.stats.second_moment import SecondMoment
from neuromeld.stats.split import SplitStatistic, held_out_here


def narrow_tables(job: Job, rank: int) -> float:
    """Give the tables a width, and their config; return what is missed of the squares that the stream begins with.

    Directions are chosen on the calibration data, and the map behind the norm is fitted by a ridge.
    """
    model, apart = job.model, job.arch.spec.tables_apart
    assert apart is not None
    matrix, bias = _reader(model, apart)
    width, eps = len(matrix), cast(float, model.get_submodule(apart.norm).eps)

    moment = SecondMoment(width)
    _each(job, apart.norm, "tables", lambda x, _: moment.update(F.layer_norm(x, (width,), eps=eps)))
    reduce(moment)
    second = moment.finalize()
    basis = directions(second, matrix, rank - 1)
    flat = zero_sum(rank).to(basis)
    narrow = (rank / width) ** 0.5 * basis @ flat.T

    sums = SplitStatistic(lambda: CrossMoments(rank + 1, matrix.shape[1]))

    def add(x: Tensor, held_out: bool) -> None:
        read = F.layer_norm(x @ narrow, (rank,), eps=eps)
        sums.update(held_out, F.pad(read, (0, 1), value=1.0), F.layer_norm(x, (width,), eps=eps) @ matrix + bias)

    _each(job, apart.norm, "the map behind the tables", add)
    kept = torch.linalg.lstsq(basis.T @ second @ basis, basis.T @ second @ matrix).solution
    start = torch.cat([(width / rank) ** 0.5 * flat @ kept, bias[None]])
    found = refit(*sums.finalize(), start)

    like = read_matrix(model, job.arch.spec.embeddings[0])
    for table in job.arch.spec.embeddings:
        write_matrix(model, table, read_matrix(model, table).to(narrow) @ narrow)
    write_norm(model, apart.norm, torch.ones(rank), torch.zeros(rank))
    add_linear(model, apart.up, found.matrix[:-1], like=like, bias=found.matrix[-1])
    setattr(model.config, apart.key, rank)
    return found.fit.error_after


def directions(second: Float[Tensor, "e e"], matrix: Float[Tensor, "e d"], rank: int) -> Float[Tensor, "e k"]:
    """Return an orthonormal basis of the directions that `a` has where it says most of `a S`.

    second  `H`, the second moment of `a`, whose rows sum to zero, as those of a LayerNorm do
    matrix  `S`

    With `U` the leading eigenvectors of `S^T H S`, the numbers `a S U` say most of `a S`, and what they say of `a`
    itself lies in the span of `H S U`.  That is kept, not the span of `S U`: the norm divides by the length of it.
    """
    read = matrix - matrix.mean(dim=0)
    vectors = torch.linalg.eigh(read.T @ second @ read).eigenvectors
    found: Tensor = torch.linalg.qr(second @ read @ vectors[:, -rank:].flip(1)).Q
    return found


def zero_sum(rank: int) -> Float[Tensor, "r k"]:
    """Return an orthonormal basis `(r, r - 1)` of the vectors of `r` numbers that sum to zero."""
    ones = torch.ones(rank, 1, dtype=ACCUMULATE)
    found: Tensor = torch.linalg.qr(torch.cat([ones, torch.eye(rank, dtype=ACCUMULATE)[:, 1:]], dim=1)).Q
    return found[:, 1:]


def _reader(model: nn.Module, apart: TablesApart) -> tuple[Tensor, Tensor]:
    """Return `S (e, d)` and `b (d)`: the gain and the bias of the norm, and the map behind it where there is one."""
    gain, shift = (vector.to(ACCUMULATE) for vector in read_norm(model, apart.norm) if vector is not None)
    if find_module(model, apart.up) is None:
        return gain.diag(), shift
    linear = Weight(apart.up, in_=Space.EMBEDDING, out=Space.RESIDUAL)
    matrix, bias = read_matrix(model, linear).to(ACCUMULATE), read_bias(model, linear)
    assert bias is not None
    return gain[:, None] * matrix, shift @ matrix + bias


def _each(job: Job, path: str, what: str, use: Callable[[Tensor, bool], None]) -> None:
    """Call `use` with what the norm reads in each batch, `(n, e)` in float64, and whether it is held out."""
    for index, batch in enumerate(tracked(job.data, what, enabled=job.progress)):

        def on_activation(_: str, x: Tensor, held_out: bool = held_out_here(job.data, index)) -> None:
            use(x.to(ACCUMULATE), held_out)

        capture_inputs(job.model, job.arch, [path], [batch], on_activation)
