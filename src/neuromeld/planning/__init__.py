"""Spend a budget where it hurts least: sensitivities, candidates, and the choice among them by measurement."""

from neuromeld.planning.budget import Budget, Objective
from neuromeld.planning.choose import Choice, Measured, Planner

__all__ = ["Budget", "Choice", "Measured", "Objective", "Planner"]
