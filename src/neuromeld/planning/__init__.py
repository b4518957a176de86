"""Spend a budget where it hurts least: sensitivities, candidates, and the choice among them by measurement."""

from neuromeld.planning.budget import Budget, Objective
from neuromeld.planning.choose import Choice, Measured, Planner
from neuromeld.planning.several import Point, Sweep

__all__ = ["Budget", "Choice", "Measured", "Objective", "Planner", "Point", "Sweep"]
