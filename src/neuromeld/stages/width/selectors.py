"""Selectors: the directions that a narrow stream starts from.

A neuron selector keeps `k` of the `d` neurons, so its directions are columns of the identity; `principal` takes the
leading eigenvectors instead.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuromeld.registry import Method, Need, methods
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats import Moments


@dataclass(frozen=True)
class Stream:
    """The residual stream on the calibration data.

    second_moment  the one that directions are chosen by, `(d, d)`: of the stream as its norms hand it on, or as it is
    learned        directions that were learned, `(d, k)`; only where a selector looks at that
    """

    moments: Moments
    second_moment: Float[Tensor, "d d"]
    seed: int = 0
    learned: Float[Tensor, "d k"] | None = None


@dataclass(frozen=True)
class Selection:
    """`directions (d, k)`, and the kept neurons `(k,)` where the directions are neurons."""

    directions: Float[Tensor, "d k"]
    neurons: Int[Tensor, "k"] | None


Selector = Method[Callable[[Stream, int], Selection]]
"""`(stream, k) -> Selection`."""


def mean_abs_activation(stream: Stream, k: int) -> Selection:
    """Keep the neurons with the largest mean absolute activation."""
    return _top(stream.moments.mean_abs, k)


def rms(stream: Stream, k: int) -> Selection:
    """Keep the neurons with the largest second moment."""
    return _top(stream.second_moment.diagonal(), k)


def principal(stream: Stream, k: int) -> Selection:
    """Take the leading eigenvectors of the uncentred second moment."""
    _, vectors = torch.linalg.eigh(stream.second_moment)
    return Selection(vectors[:, -k:].flip(1), None)


def learned(stream: Stream, k: int) -> Selection:  # noqa: ARG001
    """Train directions, from the leading eigenvectors on, by the divergence from the whole model's predictions."""
    assert stream.learned is not None
    return Selection(stream.learned, None)


def random(stream: Stream, k: int) -> Selection:
    """Keep neurons drawn at random: the floor that every other selector has to beat."""
    generator = torch.Generator().manual_seed(stream.seed)
    score = torch.rand(len(stream.moments.mean_abs), generator=generator, dtype=ACCUMULATE)
    return _top(score.to(stream.second_moment.device), k)


def _top(score: Float[Tensor, "d"], k: int) -> Selection:
    neurons = torch.topk(score, k).indices.sort().values
    return Selection(torch.eye(len(score), dtype=ACCUMULATE, device=score.device)[:, neurons], neurons)


SELECTORS = methods(
    "selector",
    Method(mean_abs_activation),
    Method(rms),
    Method(principal, source="arXiv:2401.15024"),
    Method(learned, frozenset({Need.LEARNING})),
    Method(random),
)
