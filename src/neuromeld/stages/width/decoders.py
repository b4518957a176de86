"""Decoders: given a merge, the `D (k, d)` that reconstructs the stream from what was kept."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.registry import Registry
from neuromeld.stages.width.merges import Merge
from neuromeld.stages.width.width_map import WidthMap

Decoder = Callable[[Merge, Float[Tensor, "d d"]], WidthMap]
"""`(merge, second_moment) -> WidthMap`; `second_moment` is that of the stream as its norms hand it on."""

RIDGE = 1e-4
"""Of the mean diagonal of the Gram matrix."""


def pinv(merge: Merge, second_moment: Float[Tensor, "d d"]) -> WidthMap:
    """`D = E^+`: the orthogonal projection onto the span of `E`.

    `E E^+` depends on that span alone, so `E` is replaced by an orthonormal basis of it: the same map, without the
    inverse, which would be useless for an encoder as smooth as a heavily regularised transport plan.
    """
    q, r = torch.linalg.qr(merge.encode)
    q = q * torch.where(torch.diagonal(r) < 0, -1.0, 1.0).to(q.dtype)
    return WidthMap(q, q.T)


def transport(merge: Merge, second_moment: Float[Tensor, "d d"]) -> WidthMap:
    """`D` = the plan run backwards: each neuron is a weighted average of the ones it was sent to."""
    assert merge.backward is not None
    return WidthMap(merge.encode, merge.backward)


def ridge(merge: Merge, second_moment: Float[Tensor, "d d"]) -> WidthMap:
    """`D = (E^T S E + lambda I)^-1 E^T S`: the best linear reconstruction on the calibration data."""
    kept = merge.encode.T @ second_moment
    gram = kept @ merge.encode
    damping = RIDGE * gram.diagonal().mean() * torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
    return WidthMap(merge.encode, torch.linalg.solve(gram + damping, kept))


DECODERS: Registry[Decoder] = Registry("decoder", {f.__name__: f for f in (pinv, transport, ridge)})
