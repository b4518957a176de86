"""Remove groups of attention heads."""

from neuromeld.stages.heads.options import Heads
from neuromeld.stages.heads.stage import HeadsStage

__all__ = ["Heads", "HeadsStage"]
