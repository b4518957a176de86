"""Statistics of activations: streamed over tokens, merged by addition, kept on disk."""

from neuromeld.stats.base import Statistic
from neuromeld.stats.cross import Cross, CrossMoments
from neuromeld.stats.features import FeatureMoments, Features
from neuromeld.stats.moments import Moments, StreamMoments
from neuromeld.stats.pairwise import PairwiseL1
from neuromeld.stats.store import StatisticsStore, cache_key

__all__ = [
    "Cross",
    "CrossMoments",
    "FeatureMoments",
    "Features",
    "Moments",
    "PairwiseL1",
    "Statistic",
    "StatisticsStore",
    "StreamMoments",
    "cache_key",
]
