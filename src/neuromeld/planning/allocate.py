"""Different sizes for different layers: take away what carries the least information per parameter."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

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


@dataclass(frozen=True)
class _Parts:
    """Parts of one space of one layer that can be taken away, the least worth first; of several one is always left.

    worth  of each, in nats a parameter
    gone   units that are gone with so many parts, and `lost`, the information in them
    """

    units: int
    worth: list[float]
    gone: list[int]
    lost: list[float]

    def at(self, threshold: float) -> tuple[int, float]:
        """Return how many units carry more than the threshold, and what is lost with the others."""
        taken = min(bisect_right(self.worth, threshold), max(0, len(self.worth) - 1))
        return self.units - self.gone[taken], self.lost[taken]


class Allocation:
    """The sizes of all layers at any threshold: what carries more is kept, and of every layer a chunk and a group.

    ffn    information of each hidden neuron, by layer
    heads  information of each attention channel, by layer; None leaves attention alone
    chunk  neurons that are taken away at a time; what is left of a layer is all of it, or a multiple of this
    """

    def __init__(
        self,
        arch: Architecture,
        ffn: Sequence[Tensor],
        heads: Sequence[Tensor] | None,
        num_kv_heads: int,
        chunk: int = CHUNK,
    ) -> None:
        per_neuron, per_layer = neuron_costs(arch)
        self._ffn = [_parts(scores, chunk, per_neuron) for scores in ffn]
        groups = [scores.view(num_kv_heads, -1).sum(1) for scores in heads or []]
        self._groups = [_parts(scores, 1, per_layer / num_kv_heads) for scores in groups]
        self._num_kv_heads = num_kv_heads

    @property
    def thresholds(self) -> list[float]:
        """The thresholds between which nothing changes, in nats a parameter, ascending."""
        return sorted({0.0, *(worth for parts in (*self._ffn, *self._groups) for worth in parts.worth)})

    def at(self, threshold: float) -> Layered:
        """Keep what carries more than `threshold` nats a parameter."""
        ffn, groups = ([parts.at(threshold) for parts in space] for space in (self._ffn, self._groups))
        counts = tuple(count for count, _ in groups) if groups else (self._num_kv_heads,) * len(ffn)
        return Layered(tuple(width for width, _ in ffn), counts, sum(lost for _, lost in (*ffn, *groups)))


def _parts(scores: Tensor, chunk: int, cost: float) -> _Parts:
    """Return what is taken away at a time, the least first: what is over a multiple of `chunk`, then chunks."""
    ascending = scores.sort().values
    over = len(ascending) % chunk
    parts = [part for part in (ascending[:over], *ascending[over:].split(chunk)) if len(part)]
    sizes, sums = [len(part) for part in parts], [float(part.sum()) for part in parts]
    worth = [carried / (size * cost) for carried, size in zip(sums, sizes, strict=True)]
    return _Parts(len(scores), worth, [0, *accumulate(sizes)], [0.0, *accumulate(sums)])


def _around(arch: Architecture, spaces: tuple[Space, ...]) -> list[Weight]:
    return [w for w in arch.stack(0).weights if w.in_ in spaces or w.out in spaces]
