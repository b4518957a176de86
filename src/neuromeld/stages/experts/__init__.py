"""Leave fewer experts in every layer of a mixture."""

from neuromeld.stages.experts.options import Experts
from neuromeld.stages.experts.stage import ExpertsStage, possible_counts

__all__ = ["Experts", "ExpertsStage", "possible_counts"]
