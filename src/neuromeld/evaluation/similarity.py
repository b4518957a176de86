"""How alike the sublayers of a model are: linear CKA between what every two of them write (arXiv:1905.00414)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space
from neuromeld.errors import UnsupportedModelError
from neuromeld.model.capture import Batch, advancing
from neuromeld.model.pairs import collect_pairs
from neuromeld.shapes import ACCUMULATE

SIMILARITY_TOKENS = 8192


@dataclass(frozen=True)
class Similarity:
    """Linear CKA, in [0, 1], between the outputs of every two FFNs and of every two attention sublayers.

    Outputs are what the last matrix of a sublayer writes; without meaning where one of the two is constant.
    """

    ffn: Float64[Tensor, "l l"]
    attention: Float64[Tensor, "l l"]


def similarity(
    model: nn.Module,
    arch: Architecture,
    batches: Sequence[Batch],
    *,
    max_tokens: int | None = SIMILARITY_TOKENS,
    advance: Callable[[int], None] = lambda _: None,
) -> Similarity:
    """Compare sublayers in two passes over the first batches, the kinds of sublayer one after the other.

    max_tokens   batches of text are taken while they hold no more than this many tokens, and one at least; None takes
                 all: the work is `l (l + 1) d^2` multiplications a token, and the sums take `4 l (l + 1) d^2` bytes
    advance      called with the number of batches done so far, of both passes together

    Raises `UnsupportedModelError` for a model with several stacks, or whose sublayers are not all described.
    """
    if len(arch.depths) > 1:
        raise UnsupportedModelError(
            f"the layers of {arch.spec.model_type} models are in {len(arch.depths)} stacks, which read different "
            "tokens: what they write cannot be compared token by token"
        )
    if any(len(arch.layers_with(space)) < arch.num_layers for space in (Space.FFN, Space.HEADS)):
        raise UnsupportedModelError(
            f"attention and FFNs of {arch.spec.model_type} models are not described in every layer, so they cannot be "
            "compared"
        )
    used = batches if max_tokens is None else _first(batches, max_tokens)
    ffn = _matrix(model, arch, Space.FFN, used, advance)
    attention = _matrix(model, arch, Space.HEADS, used, lambda done: advance(len(used) + done))
    return Similarity(ffn, attention)


def similar_windows(matrix: Float64[Tensor, "l l"], length: int) -> list[tuple[range, float]]:
    """Return every window of `length` layers, at least 2, with the mean similarity of its pairs, the most alike
    first.
    """
    starts = range(len(matrix) - length + 1)
    rows, columns = torch.triu_indices(length, length, offset=1)
    found = [(range(s, s + length), float(matrix[s + rows, s + columns].mean())) for s in starts]
    return sorted(found, key=lambda window: -window[1])


def linear_cka(cross: Float64[Tensor, "d d"], own: Float64[Tensor, "d d"], other: Float64[Tensor, "d d"]) -> float:
    """Return `|X^T Y|_F^2 / (|X^T X|_F |Y^T Y|_F)` from the covariances of X with Y, of X and of Y."""
    return float(cross.square().sum() / (own.norm() * other.norm()))


def _matrix(
    model: nn.Module, arch: Architecture, space: Space, batches: Sequence[Batch], advance: Callable[[int], None]
) -> Float64[Tensor, "l l"]:
    layers = range(arch.num_layers)
    paths = {layer: arch.consumer(layer, space).path for layer in layers}
    pairs = combinations_with_replacement(layers, 2)
    moments = collect_pairs(model, arch, paths, pairs, arch.widths[Space.RESIDUAL], advancing(batches, advance))
    own = [moments[layer, layer].finalize().cross for layer in layers]
    result = torch.empty(len(layers), len(layers), dtype=ACCUMULATE)
    for (first, second), statistic in moments.items():
        value = linear_cka(statistic.finalize().cross, own[first], own[second])
        result[first, second] = result[second, first] = value
    return result


def _first(batches: Sequence[Batch], max_tokens: int) -> Sequence[Batch]:
    total = 0
    for number, batch in enumerate(batches):
        total += batch["input_ids"].numel()
        if total > max_tokens:
            return batches[: max(1, number)]
    return batches
