"""Different sizes for different layers: take away what carries the least information per parameter."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import GROUPED, Space, Weight

CHUNK = 8
"""Hidden neurons are taken away by so many."""


@dataclass(frozen=True)
class Layered:
    """Hidden neurons and groups of heads of each layer, and the information in what is gone."""

    ffn: tuple[int, ...]
    num_kv_heads: tuple[int, ...]
    lost: float


def neuron_costs(arch: Architecture) -> tuple[int, int]:
    """Parameters, biases apart, of one hidden neuron and of all groups of heads, in one layer."""
    of_ffn = sum(
        w.repeats * arch.widths[w.in_] if w.out == Space.FFN else arch.widths[w.out]
        for w in _around(arch, (Space.FFN,))
    )
    of_heads = sum(arch.widths[w.in_] * arch.widths[w.out] for w in _around(arch, GROUPED))
    return of_ffn, of_heads


def allocate(
    arch: Architecture,
    ffn: Sequence[Tensor],
    heads: Sequence[Tensor] | None,
    num_kv_heads: int,
    threshold: float,
    chunk: int = CHUNK,
) -> Layered:
    """Keep what carries more than `threshold` nats a parameter; of every layer at least one chunk and one group.

    ffn    information of each hidden neuron, by layer
    heads  information of each attention channel, by layer; None leaves attention alone
    chunk  neurons that are taken away at a time; what is left of a layer is all of it, or a multiple of this
    """
    per_neuron, per_layer = neuron_costs(arch)
    widths, groups, lost = [], [], 0.0
    for scores in ffn:
        ascending = scores.sort().values
        parts = _parts(ascending, chunk)
        worth = [float(part.sum()) / (len(part) * per_neuron) for part in parts]
        taken = max(0, min(sum(value <= threshold for value in worth), len(parts) - 1))
        gone = sum(map(len, parts[:taken]))
        widths.append(len(scores) - gone)
        lost += float(ascending[:gone].sum())
    for scores in heads if heads is not None else [torch.ones(num_kv_heads)] * len(ffn):
        ascending = scores.view(num_kv_heads, -1).sum(1).sort().values
        gone = 0
        if heads is not None:
            gone = min(int((ascending / (per_layer / num_kv_heads) <= threshold).sum()), num_kv_heads - 1)
            lost += float(ascending[:gone].sum())
        groups.append(num_kv_heads - gone)
    return Layered(tuple(widths), tuple(groups), lost)


def _parts(ascending: Tensor, chunk: int) -> list[Tensor]:
    """Return what is taken away at a time, the least first: what is over a multiple of `chunk`, then chunks."""
    over = len(ascending) % chunk
    return [part for part in (ascending[:over], *ascending[over:].split(chunk)) if len(part)]


def _around(arch: Architecture, spaces: tuple[Space, ...]) -> list[Weight]:
    return [w for w in arch.stack(0).weights if w.in_ in spaces or w.out in spaces]
