"""Budgets: unique parameters, floating-point operations, time, or what may be lost."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from transformers import PreTrainedModel

from neuromeld.archs import Architecture
from neuromeld.archs.sizes import Sizes, sizes_of
from neuromeld.errors import UserInputError
from neuromeld.evaluation import unique_parameters
from neuromeld.planning.allowed import AllowedLoss, allowed_loss
from neuromeld.planning.plan import architecture_of, make_plan
from neuromeld.planning.recipe import Recipe
from neuromeld.planning.serving import Serving
from neuromeld.registry import unknown_name
from neuromeld.settings import check_ratio

Objective = Literal["params", "flops", "latency"]


@dataclass(frozen=True)
class Budget:
    """At most `keep` of what `objective` says, or at most `params` unique parameters, or `flops` of the operations.

    Or at most `memory` bytes while it is served as `serving` says, or as few parameters as lose at most `max_loss` on
    validation text: nats per token, as 0.1, or a share of next-token accuracy, as "2%".  One of the five is given.
    The objectives are unique parameters, operations per token, and the measured time of a request.
    """

    keep: float | None = None
    params: int | None = None
    flops: float | None = None
    objective: Objective = "params"
    max_loss: float | str | None = None
    memory: int | None = None
    serving: Serving = field(default_factory=Serving)

    def __post_init__(self) -> None:
        budgets = (self.keep, self.params, self.flops, self.max_loss, self.memory)
        if sum(value is not None for value in budgets) != 1:
            raise UserInputError(
                "give one budget: --keep RATIO, --params NUMBER, --flops RATIO, --memory SIZE or --max-loss NATS|SHARE%"
            )
        if self.objective not in get_args(Objective):
            raise UserInputError(unknown_name("objective", self.objective, list(get_args(Objective))))
        if self.objective != "params" and self.keep is None:
            raise UserInputError(
                f"--objective {self.objective} says what --keep is a share of; the others say it themselves"
            )
        _ = self.allowed
        if self.params is not None and self.params < 1:
            raise UserInputError(f"params={self.params} must be at least 1 parameter to keep")
        try:
            check_ratio("keep", self.keep)
            check_ratio("flops", self.flops)
        except ValueError as error:
            raise UserInputError(str(error)) from None

    @property
    def allowed(self) -> AllowedLoss | None:
        """Return what may be lost, if that is the budget; `UserInputError` where `max_loss` does not say."""
        return None if self.max_loss is None else allowed_loss(self.max_loss)

    def share(self, model: PreTrainedModel, recipe: Recipe, arch: Architecture | None = None) -> float:
        """Return the cost of a recipe's result over the budget; operations stand for time, until that is measured."""
        if self.max_loss is not None:
            raise UserInputError("what may be lost is no budget of sizes: what meets it is measured")
        plan = make_plan(model, recipe, arch=arch)
        if self.memory is not None:
            arch = arch or architecture_of(model)
            return self.served_bytes(model, plan.parameters_after, arch, plan.after) / self.memory
        flops = self.keep if self.objective != "params" else self.flops
        if flops is not None:
            return plan.flops_after / (flops * plan.flops_before)
        limit = self.params if self.params is not None else int((self.keep or 1) * plan.parameters_before)
        return plan.parameters_after / limit

    def served_bytes(self, model: PreTrainedModel, parameters: int, arch: Architecture, after: Sizes) -> int:
        """Return the bytes that a smaller `model` takes while it is served."""
        return self.serving.num_bytes(parameters, arch, after, model.config, model.dtype)

    def check_needed(self, model: PreTrainedModel, arch: Architecture) -> None:
        """Raise `UserInputError` where the model as it comes meets a budget of memory."""
        if self.memory is None:
            return
        taken = self.served_bytes(model, unique_parameters(model), arch, sizes_of(arch, model.config))
        if taken <= self.memory:
            raise UserInputError(
                f"the model as it comes is served in {taken / 1e6:,.1f} MB, which --memory allows: nothing has to be "
                "made smaller"
            )
