"""Budgets: unique parameters, floating-point operations, time, or what may be lost."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from transformers import PreTrainedModel

from neuromeld.archs import Architecture
from neuromeld.errors import UserInputError
from neuromeld.planning.plan import make_plan
from neuromeld.planning.recipe import Recipe
from neuromeld.registry import unknown_name
from neuromeld.settings import check_ratio

Objective = Literal["params", "flops", "latency"]


@dataclass(frozen=True)
class Budget:
    """At most `keep` of what `objective` says, or at most `params` unique parameters, or `flops` of the operations.

    Or as few parameters as lose at most `max_loss`, in nats per token of validation text.  One of the four is given.
    The objectives are unique parameters, operations per token, and the measured time of a request.
    """

    keep: float | None = None
    params: int | None = None
    flops: float | None = None
    objective: Objective = "params"
    max_loss: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.keep, self.params, self.flops, self.max_loss) if value is not None]
        if len(given) != 1:
            raise UserInputError("give one budget: --keep RATIO, --params NUMBER, --flops RATIO or --max-loss NATS")
        if self.objective not in get_args(Objective):
            raise UserInputError(unknown_name("objective", self.objective, list(get_args(Objective))))
        if self.objective != "params" and self.keep is None:
            raise UserInputError(
                f"--objective {self.objective} says what --keep is a share of; the others say it themselves"
            )
        if self.max_loss is not None and not 0 < self.max_loss < math.inf:
            raise UserInputError(
                f"max_loss={self.max_loss} must be a positive number of nats per token that may be lost"
            )
        if self.params is not None and self.params < 1:
            raise UserInputError(f"params={self.params} must be at least 1 parameter to keep")
        try:
            check_ratio("keep", self.keep)
            check_ratio("flops", self.flops)
        except ValueError as error:
            raise UserInputError(str(error)) from None

    def share(self, model: PreTrainedModel, recipe: Recipe, arch: Architecture | None = None) -> float:
        """Return the cost of a recipe's result over the budget; operations stand for time, until that is measured."""
        if self.max_loss is not None:
            raise UserInputError("what may be lost is no budget of sizes: what meets it is measured")
        plan = make_plan(model, recipe, arch=arch)
        flops = self.keep if self.objective != "params" else self.flops
        if flops is not None:
            return plan.flops_after / (flops * plan.flops_before)
        limit = self.params if self.params is not None else int((self.keep or 1) * plan.parameters_before)
        return plan.parameters_after / limit
