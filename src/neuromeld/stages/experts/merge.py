"""Merge experts that go into those that get their tokens: neurons matched, then averaged by what each expert writes.

Two experts with the same neurons, in any order, become that one expert.  Whether the layer then writes what it wrote is
the router's matter, which loses a row: it does where a token is sent to one expert, with a share of one, and to the
other of the two where that is gone.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from neuromeld.model.surgery import mixed_outputs, read_bias, read_matrix, write_bias, write_matrix
from neuromeld.shapes import ACCUMULATE
from neuromeld.stages.experts.selectors import ExpertUse
from neuromeld.stats import PairMoments
from neuromeld.transport import assign
from neuromeld.units.sublayer import Expert, Sublayer, write_experts

Call = tuple[Tensor, Tensor, Tensor]
"""Tokens `(n, d)`, the experts that each is sent to `(n, k)`, and their shares `(n, k)`."""


def heirs_of(
    before: Sequence[Call], after: Sequence[Call], kept: Int64[Tensor, "m"], use: ExpertUse
) -> list[tuple[int, int]]:
    """Return for each expert that goes, and that tokens were sent to, the kept one that gains most on these tokens.

    before, after  what the experts are called with on each batch, before and after; those kept have new numbers then
    """
    total = len(use.tokens)
    gained = torch.zeros(total, len(kept), dtype=ACCUMULATE, device=kept.device)
    for old, new in zip(before, after, strict=True):
        had, has = _dense(old, total), _dense(new, len(kept))
        gained += had.T @ (has - had[:, kept]).clamp(min=0)
    gone = [number for number in range(total) if number not in set(kept.tolist()) and use.tokens[number] > 0]
    return [(number, int(kept[gained[number].argmax()])) for number in gone]


def _dense(call: Call, total: int) -> Float[Tensor, "n e"]:
    """Return the share of every expert in what is written for every token."""
    _, chosen, shares = call
    empty = torch.zeros(len(chosen), total, dtype=ACCUMULATE, device=chosen.device)
    return empty.scatter_add_(1, chosen, shares.to(ACCUMULATE))


def merge_experts(
    sublayer: Sublayer,
    originals: Sequence[Expert],
    kept: Int64[Tensor, "m"],
    merged: Sequence[tuple[int, int]],
    shares: Float[Tensor, "e"],
    biases: Float[Tensor, "e d"] | None,
) -> None:
    """Let each kept expert of a layer that has no others any more be the average of itself and those merged into it.

    originals   all experts as they were, with the tokens that were sent to them
    merged      pairs of numbers: one that went, and its kept one
    shares      that each had in what was written, summed over tokens: what the average goes by
    biases      of their outputs, as they were
    """
    numbers = kept.tolist()
    averaged = None if biases is None else biases[kept].to(ACCUMULATE)
    for row, number in enumerate(numbers):
        members = [number, *(gone for gone, heir in merged if heir == number)]
        if len(members) == 1:
            continue
        weights = shares[members] / shares[members].sum()
        _average(originals[number], [originals[gone] for gone in members[1:]], weights)
        if averaged is not None and biases is not None:
            averaged[row] = weights @ biases[members].to(ACCUMULATE)
    write_experts(sublayer, [originals[number] for number in numbers])
    if averaged is not None:
        write_bias(sublayer.model, sublayer.consumer, averaged)


def _average(kept: Expert, gone: Sequence[Expert], weights: Float[Tensor, "g"]) -> None:
    """Write into the matrices of an expert the average of its own and, neurons in its order, those of others."""
    producer, consumer = kept.producer, kept.consumer
    orders = [None, *(matching(kept, other) for other in gone)]
    sums: list[Tensor] = []
    for expert, order, weight in zip((kept, *gone), orders, weights, strict=True):
        first, second = (read_matrix(expert.model, part).to(ACCUMULATE) for part in (producer, consumer))
        bias = read_bias(expert.model, producer)
        parts = [first, second] if bias is None else [first, second, bias.to(ACCUMULATE)]
        if order is not None:
            parts = [part[order] if part is second else mixed_outputs(producer, part, order) for part in parts]
        parts = [part * weight for part in parts]
        sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
    write_matrix(kept.model, producer, sums[0])
    write_matrix(kept.model, consumer, sums[1])
    if len(sums) > 2:
        write_bias(kept.model, producer, sums[2])


def matching(kept: Expert, other: Expert) -> Int64[Tensor, "f"]:
    """Return the order of the other's hidden units in which they correlate most with those of `kept`, on the tokens
    that are sent to either.
    """
    width = len(read_matrix(kept.model, kept.consumer))
    moments = PairMoments(width, width)
    for (x, _), (y, _) in zip(kept.routed, other.routed, strict=True):
        tokens = torch.cat([x, y])
        moments.update(kept.hidden(tokens), other.hidden(tokens))
    return assign(moments.finalize().correlation)
