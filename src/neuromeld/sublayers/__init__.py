"""Merge the feed-forward sublayers of adjacent layers, and the baselines that remove them; how alike they are."""

from neuromeld.sublayers.align import Alignments, Anchor, collect_alignments
from neuromeld.sublayers.combine import collect_strengths
from neuromeld.sublayers.members import Member, fit_members
from neuromeld.sublayers.merge import Align, Compensate, Merged, merge_ffs
from neuromeld.sublayers.removal import DELETED_WIDTH, delete_ffs, drop_layers
from neuromeld.sublayers.similarity import Similarity, similar_windows, similarity
from neuromeld.sublayers.windows import Candidate, Window, WindowSearch, search_windows, windows_of

__all__ = [
    "DELETED_WIDTH",
    "Align",
    "Alignments",
    "Anchor",
    "Candidate",
    "Compensate",
    "Member",
    "Merged",
    "Similarity",
    "Window",
    "WindowSearch",
    "collect_alignments",
    "collect_strengths",
    "delete_ffs",
    "drop_layers",
    "fit_members",
    "merge_ffs",
    "search_windows",
    "similar_windows",
    "similarity",
    "windows_of",
]
