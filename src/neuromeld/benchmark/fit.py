"""The one free size of a row: what it can be, and the largest that a budget allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from neuromeld.archs import Architecture
from neuromeld.archs.sizes import sizes_of
from neuromeld.archs.spec import Space
from neuromeld.errors import NeuromeldError, UserInputError
from neuromeld.planning import Budget
from neuromeld.planning.largest import largest
from neuromeld.planning.plan import architecture_of
from neuromeld.planning.recipe import Recipe, parse_recipe
from neuromeld.registry import Registry

FFN_STEP = 8
"""Between the widths of FFNs that are tried: what their kernels accept."""

RATIO_STEP = 1 / 400
"""Between the shares of the stream's width that are tried."""


@dataclass(frozen=True)
class FreeSize:
    """Where a recipe holds a size: `values` of a model, the smaller result first; `example` fits any recipe."""

    example: float
    values: Callable[[PreTrainedModel, Architecture], Sequence[float]]


FREE_SIZES: Registry[FreeSize] = Registry(
    "free size",
    {
        "ffn.size": FreeSize(2, lambda _, arch: range(FFN_STEP, arch.widths[Space.FFN], FFN_STEP)),
        "heads.num_kv_heads": FreeSize(2, lambda model, arch: range(1, sizes_of(arch, model.config).num_kv_heads[0])),
        "width.hidden_ratio": FreeSize(0.5, lambda *_: [step * RATIO_STEP for step in range(100, 400)]),
        "embedding.rank": FreeSize(2, lambda _, arch: range(2, arch.width)),
        "drop_layers.count": FreeSize(2, lambda _, arch: range(arch.num_layers - 1, 0, -1)),
        "share_ffns.count": FreeSize(2, lambda _, arch: range(arch.num_layers, 1, -1)),
    },
)


def with_size(stages: dict[str, Any], free: str, value: float) -> dict[str, Any]:
    """Return the stages of a recipe with their free size set; what is no mapping stays, for its settings to refuse."""
    stage, _, option = free.partition(".")
    held = stages.get(stage) or {}
    return stages | {stage: held | {option: value} if isinstance(held, dict) else held}


def fitted(model: PreTrainedModel, stages: dict[str, Any], free: str, budget: Budget) -> Recipe:
    """Return the recipe with the largest result that the budget allows; the model may be a meta_model.

    `UserInputError` where even the smallest is too large.
    """
    arch = architecture_of(model)
    values = FREE_SIZES[free].values(model, arch)

    def recipe(value: float) -> Recipe:
        return parse_recipe(with_size(stages, free, value))

    def fits(value: float) -> bool:
        try:
            return budget.share(model, recipe(value), arch) <= 1
        except NeuromeldError:
            return True  # smaller than the method can go; what is larger may be possible

    value = largest(values, fits)
    if value is None:
        raise UserInputError(f"no {free} meets a budget of {budget.keep} of the parameters; ask for less compression")
    return recipe(value)
