"""Narrow the inner spaces of the layers: hidden neurons of FFNs, groups of attention heads."""

from neuromeld.neurons.merges import MERGES
from neuromeld.neurons.options import Ffn, Heads
from neuromeld.neurons.selectors import NEEDS_FELT, SELECTORS
from neuromeld.neurons.walk import Narrowing, check_compensation, narrow_neurons

__all__ = ["MERGES", "NEEDS_FELT", "SELECTORS", "Ffn", "Heads", "Narrowing", "check_compensation", "narrow_neurons"]
