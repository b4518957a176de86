"""Merge the feed-forward sublayers of adjacent layers, and the baselines that remove them; how alike they are."""

from neuromeld.evaluate.similarity import Similarity, similar_windows, similarity
from neuromeld.stages.share_ffns.align import Alignments, Anchor, collect_alignments
from neuromeld.stages.share_ffns.combine import collect_strengths
from neuromeld.stages.share_ffns.corrections import LayerCorrection, fit_corrections
from neuromeld.stages.share_ffns.merge import Align, Compensate, Merged, share_ffns
from neuromeld.stages.share_ffns.removal import DELETED_WIDTH, drop_layers, remove_ffns
from neuromeld.stages.windows import Candidate, Window, WindowSearch, search_windows, windows_of

__all__ = [
    "DELETED_WIDTH",
    "Align",
    "Alignments",
    "Anchor",
    "Candidate",
    "Compensate",
    "LayerCorrection",
    "Merged",
    "Similarity",
    "Window",
    "WindowSearch",
    "collect_alignments",
    "collect_strengths",
    "drop_layers",
    "fit_corrections",
    "remove_ffns",
    "search_windows",
    "share_ffns",
    "similar_windows",
    "similarity",
    "windows_of",
]
