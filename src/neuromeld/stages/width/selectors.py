"""Selectors: the directions that a narrow stream starts from.

A neuron selector keeps `k` of the `d` neurons, so its directions are columns of the identity; `principal` takes the
leading eigenvectors instead (SliceGPT, arXiv:2401.15024).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuromeld.registry import Registry
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats import Moments


@dataclass(frozen=True)
class Selection:
    """`directions (d, k)`, and the kept neurons `(k,)` where the directions are neurons."""

    directions: Float[Tensor, "d k"]
    neurons: Int[Tensor, "k"] | None


Selector = Callable[[Moments, Float[Tensor, "d d"], int, int], Selection]
"""`(moments, second_moment, k, seed) -> Selection`."""


def principal(moments: Moments, second_moment: Float[Tensor, "d d"], k: int, seed: int) -> Selection:
    """The `k` leading eigenvectors of the uncentred second moment."""
    _, vectors = torch.linalg.eigh(second_moment)
    return Selection(vectors[:, -k:].flip(1), None)


def magnitude(moments: Moments, second_moment: Float[Tensor, "d d"], k: int, seed: int) -> Selection:
    """The `k` neurons with the largest mean absolute activation."""
    return _top(moments.mean_abs, k)


def rms(moments: Moments, second_moment: Float[Tensor, "d d"], k: int, seed: int) -> Selection:
    """The `k` neurons with the largest second moment."""
    return _top(second_moment.diagonal(), k)


def random(moments: Moments, second_moment: Float[Tensor, "d d"], k: int, seed: int) -> Selection:
    """`k` neurons drawn without looking: the floor that every other selector has to beat."""
    generator = torch.Generator().manual_seed(seed)
    score = torch.rand(len(moments.mean_abs), generator=generator, dtype=ACCUMULATE)
    return _top(score.to(second_moment.device), k)


def _top(score: Float[Tensor, "d"], k: int) -> Selection:
    neurons = torch.topk(score, k).indices.sort().values
    return Selection(torch.eye(len(score), dtype=ACCUMULATE, device=score.device)[:, neurons], neurons)


SELECTORS: Registry[Selector] = Registry("selector", {f.__name__: f for f in (magnitude, rms, principal, random)})
