"""Spend a budget where it hurts least: sensitivities, candidates, and the choice among them by measurement."""

from neuromeld.planning.budget import Budget, Objective
from neuromeld.planning.choice import Choice, Measured, Point
from neuromeld.planning.choose import Planner
from neuromeld.planning.several import Sweep

__all__ = ["Budget", "Choice", "Measured", "Objective", "Planner", "Point", "Sweep"]
