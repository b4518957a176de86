"""Selectors: a score for each hidden neuron, from its features and the weights that read them.

`weights (f, d)` is the consumer's matrix, `taylor (f,)` the mean of `|z dL/dz|` in the model before the first layer is
narrowed, for those that ask for it (`NEEDS_FELT`); a larger score is kept longer.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.registry import Registry
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats import Features

Selector = Callable[[Features, Float[Tensor, "f d"], Float[Tensor, "f"] | None, int], Float[Tensor, "f"]]
"""`(features, weights, taylor, seed) -> score`."""

LEVERAGE_RIDGE = 1e-2
"""Of the mean diagonal of the Gram matrix."""


def magnitude(
    features: Features, weights: Float[Tensor, "f d"], taylor: Float[Tensor, "f"] | None, seed: int
) -> Float[Tensor, "f"]:
    """Mean absolute activation."""
    return features.mean_abs


def wanda(
    features: Features, weights: Float[Tensor, "f d"], taylor: Float[Tensor, "f"] | None, seed: int
) -> Float[Tensor, "f"]:
    """RMS of the activation times the norm of the weights that read it (after arXiv:2306.11695)."""
    norms: Tensor = weights.norm(dim=1)
    return features.gram.diagonal().sqrt() * norms


def fluctuation(
    features: Features, weights: Float[Tensor, "f d"], taylor: Float[Tensor, "f"] | None, seed: int
) -> Float[Tensor, "f"]:
    """Variance of the activation times the squared norm of the weights that read it (FLAP, arXiv:2312.11983)."""
    return (features.gram.diagonal() - features.mean.square()) * weights.square().sum(1)


def leverage(
    features: Features, weights: Float[Tensor, "f d"], taylor: Float[Tensor, "f"] | None, seed: int
) -> Float[Tensor, "f"]:
    """Ridge leverage score: how little the other neurons could stand in for it (after MoDeGPT, arXiv:2408.09632)."""
    damping = LEVERAGE_RIDGE * features.gram.diagonal().mean()
    inverse: Tensor = torch.linalg.inv(_damped(features.gram, damping))
    return 1 - damping * inverse.diagonal()


def residual(
    features: Features, weights: Float[Tensor, "f d"], taylor: Float[Tensor, "f"] | None, seed: int
) -> Float[Tensor, "f"]:
    """The part of a neuron that the others cannot express, times the weights that read it.

    Removing one neuron alone and letting ridge regression make up for it raises the squared error by
    `|w_j|^2 / (G + lambda I)^-1_jj` (the saliency of Optimal Brain Surgeon, for whole neurons).
    """
    damping = LEVERAGE_RIDGE * features.gram.diagonal().mean()
    inverse: Tensor = torch.linalg.inv(_damped(features.gram, damping))
    return weights.square().sum(1) / inverse.diagonal()


def _damped(gram: Float[Tensor, "f f"], damping: Tensor) -> Float[Tensor, "f f"]:
    damped = gram.clone()
    damped.diagonal().add_(damping)
    return damped


def gradient(
    features: Features, weights: Float[Tensor, "f d"], taylor: Float[Tensor, "f"] | None, seed: int
) -> Float[Tensor, "f"]:
    """How much the loss would change without it, to first order at each token (after arXiv:1611.06440)."""
    assert taylor is not None
    return taylor


def random(
    features: Features, weights: Float[Tensor, "f d"], taylor: Float[Tensor, "f"] | None, seed: int
) -> Float[Tensor, "f"]:
    """Drawn without looking: the floor that every other selector has to beat."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(features.mean), generator=generator, dtype=ACCUMULATE).to(features.mean.device)


SELECTORS: Registry[Selector] = Registry(
    "selector", {f.__name__: f for f in (magnitude, wanda, fluctuation, leverage, residual, gradient, random)}
)

NEEDS_INVERSE = ("leverage", "residual")
"""Selectors that invert a Gram matrix, which takes several times its memory."""

NEEDS_FELT = ("gradient",)
"""Selectors that cost a backward pass over the calibration data."""
