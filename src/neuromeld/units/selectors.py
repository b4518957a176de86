"""Selectors: a score for each hidden unit, from its features and the weights that read them; a larger one is kept."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.linalg.removal import greedy_removal
from neuromeld.registry import Method, Need, methods
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats import Features

DAMPING = 1e-2
"""Of the mean diagonal of the Gram matrix."""


@dataclass(frozen=True)
class Units:
    """The hidden units of a sublayer.

    features    their moments on the calibration data
    weights     the matrix that reads them, `(f, d)`
    importance  of each feature in the model before the first layer is narrowed; only where a selector looks at that
    size        features of a unit, in a row
    """

    features: Features
    weights: Float[Tensor, "f d"]
    importance: Float[Tensor, "f"] | None = None
    seed: int = 0
    size: int = 1

    @property
    def damped_gram(self) -> tuple[Float[Tensor, "f f"], Tensor]:
        """`G + lambda I`, and lambda."""
        gram = self.features.gram.clone()
        damping = (DAMPING * gram.diagonal().mean()).clamp_min(torch.finfo(torch.float32).tiny)
        gram.diagonal().add_(damping)
        return gram, damping


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
    gram, damping = units.damped_gram
    inverse: Tensor = torch.linalg.inv(gram)
    return 1 - damping * inverse.diagonal()


def obs(units: Units) -> Float[Tensor, "f"]:
    """Optimal Brain Surgeon for whole units: when each goes, the cheapest first, with the rest refitted after each."""
    gram, _ = units.damped_gram
    order = greedy_removal(gram, units.weights, units.size).order
    scores = torch.empty(len(order), dtype=ACCUMULATE, device=order.device)
    scores[order] = torch.arange(len(order), dtype=ACCUMULATE, device=order.device)
    return scores.repeat_interleave(units.size)


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
    Method(obs, frozenset({Need.INVERSE_GRAM, Need.LEVELS}), source="arXiv:2302.04089"),
    Method(taylor, frozenset({Need.GRADIENT}), source="arXiv:1611.06440"),
    Method(learned, frozenset({Need.LEARNING})),
    Method(random),
)


def learns(selector: str) -> bool:
    """Tell whether a selector learns its scores."""
    return Need.LEARNING in SELECTORS[selector].needs


def measures_levels(selector: str) -> bool:
    """Tell whether layers are compared by the losses of some of their widths, measured."""
    return Need.LEVELS in SELECTORS[selector].needs


def sees_whole_model(selector: str) -> bool:
    """Tell whether a selector scores units by passes through the whole model, so that layers can be compared."""
    return bool(SELECTORS[selector].needs & {Need.GRADIENT, Need.LEARNING})
