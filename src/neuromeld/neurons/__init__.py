"""Narrow the inner spaces of the layers: hidden neurons of FFNs, groups of attention heads."""

from neuromeld.neurons.merges import MERGES
from neuromeld.neurons.options import Ffn, Heads
from neuromeld.neurons.selectors import SELECTORS
from neuromeld.neurons.walk import Narrowing, check_compensation, narrow_neurons

__all__ = ["MERGES", "SELECTORS", "Ffn", "Heads", "Narrowing", "check_compensation", "narrow_neurons"]
