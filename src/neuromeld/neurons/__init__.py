"""Narrow the inner spaces of the layers: hidden neurons of FFNs, groups of attention heads."""

from neuromeld.neurons.merges import MERGES
from neuromeld.neurons.options import Ffn, Heads
from neuromeld.neurons.selectors import NEEDS_FELT, NEEDS_INVERSE, SELECTORS
from neuromeld.neurons.walk import Narrowing, check_compensation, narrow_neurons

__all__ = [
    "MERGES",
    "NEEDS_FELT",
    "NEEDS_INVERSE",
    "SELECTORS",
    "Ffn",
    "Heads",
    "Narrowing",
    "check_compensation",
    "narrow_neurons",
]
