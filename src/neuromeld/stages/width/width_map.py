"""The one idea behind every way to narrow the residual stream: a pair of matrices around a cut.

    encode E (d, k)      decode D (k, d)      reconstruction  x_hat = x E D

An orthogonal factor is the only thing that commutes with RMSNorm, so `D = L Q^T` is factored into a lower triangular
`L` and orthonormal columns `Q` (arXiv:2507.04517).  The narrow stream is `s = a x E L` with `a = sqrt(k/d)`: then
`mean(s^2) = sum(x_hat^2) / d`, and a stock norm that divides by `k`, with its epsilon unchanged, computes
`norm(s) Q^T / a = norm(x_hat)` exactly.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.archs.spec import NormKind
from neuromeld.errors import NumericsError
from neuromeld.shapes import ACCUMULATE


@dataclass(frozen=True)
class WidthMap:
    """`encode (d, k)` and `decode (k, d)`, float64."""

    encode: Float[Tensor, "d k"]
    decode: Float[Tensor, "k d"]


@dataclass(frozen=True)
class Basis:
    """A width map in the coordinates that a model holds.

    write (d, k): what producers are multiplied by, on their output side.
    read (k, d): `norm(s) @ read = norm(x_hat)`, what consumers are multiplied by, on their input side.
    """

    write: Float[Tensor, "d k"]
    read: Float[Tensor, "k d"]

    @property
    def width(self) -> int:
        return self.write.shape[1]


def centred(columns: Float[Tensor, "d m"], kind: NormKind) -> Float[Tensor, "d m"]:
    """Return the columns without their component along the mean direction, which a LayerNorm does not see."""
    return columns - columns.mean(0, keepdim=True) if kind == "layer" else columns


def map_rank(width: int, kind: NormKind) -> int:
    """Return how many directions a stream of `width` can carry: one less where the norms subtract the mean."""
    return width - 1 if kind == "layer" else width


def basis_of(width_map: WidthMap, kind: NormKind) -> Basis:
    """Return the coordinates in which `width_map` is exact under norms of this kind.

    Under LayerNorm only the centred stream is read, so the map covers that, with `k-1` directions, and the `k`-th
    coordinate of the narrow stream keeps the mean.  A reflection then turns it onto the mean direction of the narrow
    stream, where the narrow LayerNorm subtracts it.

    Raises `NumericsError` when the decoder is not finite.
    """
    decode = width_map.decode.to(ACCUMULATE)
    if not (torch.isfinite(decode).all() and torch.isfinite(width_map.encode).all()):
        raise NumericsError("the width map is not finite; use more calibration tokens or a larger regularisation")
    rank, d = decode.shape
    k = rank if kind == "rms" else rank + 1
    scale = math.sqrt(k / d)
    q, r = torch.linalg.qr(decode.T)
    signs = torch.where(torch.diagonal(r) < 0, -1.0, 1.0).to(ACCUMULATE)
    q, lower = q * signs, (r * signs[:, None]).T
    write, read = scale * width_map.encode.to(ACCUMULATE) @ lower, q.T / scale
    if kind == "rms":
        return Basis(write, read)
    ones = torch.ones(d, 1, dtype=ACCUMULATE, device=decode.device)
    turn = _mean_reflection(k).to(decode.device)
    return Basis(
        torch.cat([write, ones * (math.sqrt(k) / d)], dim=1) @ turn,
        turn @ torch.cat([read, ones.T / math.sqrt(k)], dim=0),
    )


def shortcut(before: Basis, after: Basis) -> Float[Tensor, "k k2"]:
    """Return the matrix that carries the residual from one basis to the next: decode, then encode again."""
    return before.read @ after.write


def rotate(basis: Basis, rotation: Float[Tensor, "k k"]) -> Basis:
    """Turn the coordinates of a map by an orthogonal matrix; exact under RMSNorm only."""
    return Basis(basis.write @ rotation, rotation.T @ basis.read)


def _mean_reflection(k: int) -> Float[Tensor, "k k"]:
    """Return the Householder reflection that swaps the last axis and the direction of the mean."""
    axis = torch.full((k,), 1 / math.sqrt(k), dtype=ACCUMULATE)
    axis[-1] -= 1
    norm = axis @ axis
    reflection = torch.eye(k, dtype=ACCUMULATE)
    return reflection if norm == 0 else reflection - 2 * torch.outer(axis, axis) / norm
