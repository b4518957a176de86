"""Statistics of activations: streamed over tokens, merged by addition, kept on disk."""

from neuromeld.stats.base import Statistic
from neuromeld.stats.cross import Cross, CrossMoments
from neuromeld.stats.energy import Energy
from neuromeld.stats.features import FeatureMoments, Features, TargetMoments
from neuromeld.stats.moments import Moments, StreamMoments
from neuromeld.stats.pair import Covariance, PairMoments
from neuromeld.stats.pairwise import PairwiseL1
from neuromeld.stats.store import StatisticsStore, cache_key

__all__ = [
    "Covariance",
    "Cross",
    "CrossMoments",
    "Energy",
    "FeatureMoments",
    "Features",
    "Moments",
    "PairMoments",
    "PairwiseL1",
    "Statistic",
    "StatisticsStore",
    "StreamMoments",
    "TargetMoments",
    "cache_key",
]
