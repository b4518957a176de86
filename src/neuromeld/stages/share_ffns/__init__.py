"""Merge adjacent FFNs into one that they share (arXiv:2501.06126)."""

from neuromeld.stages.share_ffns.align import Alignments, collect_alignments
from neuromeld.stages.share_ffns.combine import COMBINES, collect_strengths
from neuromeld.stages.share_ffns.corrections import LayerCorrection, fit_corrections
from neuromeld.stages.share_ffns.merge import Collected, SharedFfn, Sharing, share_ffns
from neuromeld.stages.share_ffns.options import ShareFfns
from neuromeld.stages.share_ffns.stage import SharedFfns, ShareFfnsStage

__all__ = [
    "COMBINES",
    "Alignments",
    "Collected",
    "LayerCorrection",
    "ShareFfns",
    "ShareFfnsStage",
    "SharedFfn",
    "SharedFfns",
    "Sharing",
    "collect_alignments",
    "collect_strengths",
    "fit_corrections",
    "share_ffns",
]
