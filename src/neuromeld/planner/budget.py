"""What a user is ready to pay: unique parameters, or floating-point operations."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from neuromeld.errors import UserInputError
from neuromeld.plan import make_plan
from neuromeld.recipe import Recipe
from neuromeld.settings import check_ratio


@dataclass(frozen=True)
class Budget:
    """At most `keep` of the unique parameters, or at most `flops` of the operations per token; one is given."""

    keep: float | None = None
    params: int | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.keep, self.params, self.flops) if value is not None]
        if len(given) != 1:
            raise UserInputError("give one budget: --keep RATIO, --params NUMBER or --flops RATIO")
        try:
            check_ratio("keep", self.keep)
            check_ratio("flops", self.flops)
        except ValueError as error:
            raise UserInputError(str(error)) from None

    def share(self, model: PreTrainedModel, recipe: Recipe) -> float:
        """The cost of the result of `recipe` over the budget."""
        plan = make_plan(model, recipe)
        if self.flops is not None:
            return plan.flops_after / (self.flops * plan.flops_before)
        limit = self.params if self.params is not None else int((self.keep or 1) * plan.parameters_before)
        return plan.parameters_after / limit
