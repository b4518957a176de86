"""Narrow the hidden layers of the FFNs."""

from neuromeld.stages.ffn.options import Ffn
from neuromeld.stages.ffn.stage import FfnStage

__all__ = ["Ffn", "FfnStage"]
