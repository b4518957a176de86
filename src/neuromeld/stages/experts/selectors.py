"""Selectors of experts: a score for each, from the tokens that the router sends to it; a larger one is kept."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from neuromeld.registry import Method, methods


@dataclass(frozen=True)
class ExpertUse:
    """Sums over the calibration tokens, by expert.

    tokens   that are sent to it
    shares   that it has in what is written for them
    written  norms of what it writes for them, times its share
    """

    tokens: Float64[Tensor, "e"]
    shares: Float64[Tensor, "e"]
    written: Float64[Tensor, "e"]


Selector = Method[Callable[[ExpertUse], Float64[Tensor, "e"]]]


def reap(use: ExpertUse) -> Float64[Tensor, "e"]:
    """Mean norm of what an expert writes, times its share, over the tokens that are sent to it."""
    return use.written / use.tokens.clamp(min=1)


def frequency(use: ExpertUse) -> Float64[Tensor, "e"]:
    """How many tokens are sent to it."""
    return use.tokens


def written(use: ExpertUse) -> Float64[Tensor, "e"]:
    """Norm of what an expert writes, times its share, over all tokens: often and much."""
    return use.written


SELECTORS = methods("selector", Method(reap, source="arXiv:2510.13999"), Method(frequency), Method(written))
