"""Selectors: a score for each hidden unit, from its features and the weights that read them; a larger one is kept."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.registry import Method, Need, methods
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats import Features

LEVERAGE_RIDGE = 1e-2
"""Of the mean diagonal of the Gram matrix."""


@dataclass(frozen=True)
class Units:
    """The hidden units of a sublayer.

    features    their moments on the calibration data
    weights     the matrix that reads them, `(f, d)`
    importance  of each feature in the model before the first layer is narrowed; only where a selector looks at that
    """

    features: Features
    weights: Float[Tensor, "f d"]
    importance: Float[Tensor, "f"] | None = None
    seed: int = 0

    @property
    def inverse_gram_diagonal(self) -> tuple[Float[Tensor, "f"], Tensor]:
        """The diagonal of `(G + lambda I)^-1`, and lambda."""
        gram = self.features.gram.clone()
        damping = LEVERAGE_RIDGE * gram.diagonal().mean()
        gram.diagonal().add_(damping)
        inverse: Tensor = torch.linalg.inv(gram)
        return inverse.diagonal(), damping


Selector = Method[Callable[[Units], Float[Tensor, "f"]]]


def mean_abs_activation(units: Units) -> Float[Tensor, "f"]:
    """Mean absolute activation."""
    return units.features.mean_abs


def wanda(units: Units) -> Float[Tensor, "f"]:
    """RMS of the activation times the norm of the weights that read it."""
    norms: Tensor = units.weights.norm(dim=1)
    return units.features.gram.diagonal().sqrt() * norms


def flap(units: Units) -> Float[Tensor, "f"]:
    """Variance of the activation times the squared norm of the weights that read it."""
    variance = units.features.gram.diagonal() - units.features.mean.square()
    return variance * units.weights.square().sum(1)


def leverage(units: Units) -> Float[Tensor, "f"]:
    """Ridge leverage score: how little the other units could stand in for it."""
    diagonal, damping = units.inverse_gram_diagonal
    return 1 - damping * diagonal


def obs(units: Units) -> Float[Tensor, "f"]:
    """Saliency of Optimal Brain Surgeon for whole units: the error without one that the others make up for.

    Removing one unit alone and letting ridge regression compensate raises the squared error by
    `|w_j|^2 / (G + lambda I)^-1_jj`.
    """
    diagonal, _ = units.inverse_gram_diagonal
    return units.weights.square().sum(1) / diagonal


def taylor(units: Units) -> Float[Tensor, "f"]:
    """First-order change of the loss without it, mean absolute value over tokens."""
    assert units.importance is not None
    return units.importance


def learned(units: Units) -> Float[Tensor, "f"]:
    """Scores trained by the divergence from the whole model's predictions, through a soft choice under the budget."""
    assert units.importance is not None
    return units.importance


def random(units: Units) -> Float[Tensor, "f"]:
    """Random scores: the floor that every other selector has to beat."""
    generator = torch.Generator().manual_seed(units.seed)
    scores = torch.rand(len(units.features.mean), generator=generator, dtype=ACCUMULATE)
    return scores.to(units.features.mean.device)


SELECTORS = methods(
    "selector",
    Method(mean_abs_activation),
    Method(wanda, source="arXiv:2306.11695"),
    Method(flap, source="arXiv:2312.11983"),
    Method(leverage, frozenset({Need.INVERSE_GRAM}), source="arXiv:2408.09632"),
    Method(obs, frozenset({Need.INVERSE_GRAM}), source="arXiv:2203.07259"),
    Method(taylor, frozenset({Need.GRADIENT}), source="arXiv:1611.06440"),
    Method(learned, frozenset({Need.LEARNING})),
    Method(random),
)


def learns(selector: str) -> bool:
    """Tell whether a selector learns its scores."""
    return Need.LEARNING in SELECTORS[selector].needs


def sees_whole_model(selector: str) -> bool:
    """Tell whether a selector scores units by passes through the whole model, so that layers can be compared."""
    return bool(SELECTORS[selector].needs & {Need.GRADIENT, Need.LEARNING})
