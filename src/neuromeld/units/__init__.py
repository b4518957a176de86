"""Narrow the inner spaces of the layers: hidden neurons of FFNs, groups of attention heads."""

from neuromeld.units.merges import MERGES
from neuromeld.units.options import Ffn, Heads
from neuromeld.units.selectors import NEEDS_FELT, NEEDS_INVERSE, SELECTORS
from neuromeld.units.walk import SublayerResult, check_compensation, narrow_neurons

__all__ = [
    "MERGES",
    "NEEDS_FELT",
    "NEEDS_INVERSE",
    "SELECTORS",
    "Ffn",
    "Heads",
    "SublayerResult",
    "check_compensation",
    "narrow_neurons",
]
