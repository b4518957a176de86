"""Remove FFNs and keep the attention of their layers."""

from neuromeld.stages.remove_ffns.options import RemoveFfns
from neuromeld.stages.remove_ffns.stage import RemovedFfns, RemoveFfnsStage, remove_ffns

__all__ = ["RemoveFfns", "RemoveFfnsStage", "RemovedFfns", "remove_ffns"]
