"""Measurements: perplexity, cost and speed, each with the protocol it was measured by."""

from neuromeld.evaluate.cost import bytes_on_disk, flops_per_token, unique_parameters
from neuromeld.evaluate.perplexity import Perplexity, perplexity
from neuromeld.evaluate.speed import Rate, Speed, measure_speed

__all__ = [
    "Perplexity",
    "Rate",
    "Speed",
    "bytes_on_disk",
    "flops_per_token",
    "measure_speed",
    "perplexity",
    "unique_parameters",
]
