"""Decoders: given a merge, the `D (k, d)` that reconstructs the stream from what was kept."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.registry import Method, Need, methods
from neuromeld.stages.width.merges import Merge
from neuromeld.stages.width.width_map import WidthMap

RIDGE = 1e-4
"""Of the mean diagonal of the Gram matrix."""


@dataclass(frozen=True)
class Encoded:
    """The encoder that a merge gave, and the second moment `(d, d)` of the stream as its norms hand it on."""

    merge: Merge
    second_moment: Float[Tensor, "d d"]


Decoder = Method[Callable[[Encoded], WidthMap]]


def pinv(encoded: Encoded) -> WidthMap:
    """Project onto the span of the encoder: `D = E^+`.

    `E E^+` depends on that span alone, so `E` is replaced by an orthonormal basis of it: the same map, without the
    inverse, which would be useless for an encoder as smooth as a heavily regularised transport plan.
    """
    q, r = torch.linalg.qr(encoded.merge.encode)
    q = q * torch.where(torch.diagonal(r) < 0, -1.0, 1.0).to(q.dtype)
    return WidthMap(q, q.T)


def transport(encoded: Encoded) -> WidthMap:
    """Run the transport plan backwards: each neuron is a weighted average of the ones it was sent to."""
    assert encoded.merge.backward is not None
    return WidthMap(encoded.merge.encode, encoded.merge.backward)


def ridge(encoded: Encoded) -> WidthMap:
    """Reconstruct best on the calibration data: `D = (E^T S E + lambda I)^-1 E^T S`."""
    kept = encoded.merge.encode.T @ encoded.second_moment
    gram = kept @ encoded.merge.encode
    damping = RIDGE * gram.diagonal().mean() * torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
    return WidthMap(encoded.merge.encode, torch.linalg.solve(gram + damping, kept))


DECODERS = methods(
    "decoder", Method(pinv), Method(transport, frozenset({Need.TRANSPORT}), "arXiv:2507.04517"), Method(ridge)
)
