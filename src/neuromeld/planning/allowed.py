"""Say what a smaller model may lose: nats per token, or a share of the next tokens that the original gets right."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from neuromeld.errors import UserInputError

Unit = Literal["nats", "accuracy"]


@dataclass(frozen=True)
class AllowedLoss:
    """At most `amount` may be lost: of `nats` per token, or as a share of the original's next-token `accuracy`."""

    amount: float
    unit: Unit = "nats"

    def said(self, amount: float) -> str:
        """Return an amount that is lost, in words."""
        return f"{amount:.4f} nats" if self.unit == "nats" else f"{amount:.2%} of next-token accuracy"

    def __str__(self) -> str:
        return f"{self.amount:g} nats" if self.unit == "nats" else f"{100 * self.amount:g}% of next-token accuracy"


def allowed_loss(given: float | str) -> AllowedLoss:
    """Return what may be lost: a number, or a text such as `0.1`, of nats, or `2%`, of next-token accuracy.

    Raises `UserInputError` for anything else.
    """
    text = str(given).strip()
    share = text.endswith("%")
    try:
        amount = float(text.removesuffix("%"))
    except ValueError:
        amount = math.nan
    if not 0 < amount < (100 if share else math.inf):
        raise UserInputError(
            f"max_loss={given} must be a positive number of nats per token that may be lost, as 0.1, or a share of the "
            "next-token accuracy under 100%, as 2%"
        )
    return AllowedLoss(amount / 100, "accuracy") if share else AllowedLoss(amount)


def said_of_loss(found: Mapping[str, Any]) -> str:
    """Say what a record has under `max_loss`: what may be lost, and what is, on chosen and on held-out text."""
    allowed = AllowedLoss(found["allowed"], found["unit"])
    lost, error = (allowed.said(found[name]) for name in ("validation_loss", "standard_error"))
    held_out = f", {allowed.said(found['held_out_loss'])} on held-out text" if "held_out_loss" in found else ""
    return f"of at most {allowed} it loses {lost} ± {error} on validation text{held_out}"
