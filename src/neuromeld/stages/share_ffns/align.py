"""Which hidden unit of one FF sublayer is which of another: correlate on the same tokens, then assign.

Features are what stands just before the nonlinearity; in a gated FFN, where two matrices produce, what the last one
writes, be it a module of its own or not (arXiv:2501.06126 section 3.2).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from jaxtyping import Float64, Int64
from torch import Tensor, nn

from neuromeld.archs.resolve import Architecture
from neuromeld.archs.spec import Space
from neuromeld.model.capture import Batch, advancing
from neuromeld.model.pairs import Pair, collect_pairs
from neuromeld.stages.share_ffns.mergeable import check_mergeable
from neuromeld.stages.windows import Window
from neuromeld.stats import PairMoments
from neuromeld.transport import assign

Anchor = Literal["first", "middle", "last"]


@dataclass(frozen=True)
class Alignments:
    """The moments of every pair of layers that some windows need."""

    moments: Mapping[Pair, PairMoments]
    _found: dict[Pair, Int64[Tensor, " f"]] = field(default_factory=dict, repr=False)

    def correlation(self, anchor: int, member: int) -> Float64[Tensor, "f f"]:
        """Units of the anchor in rows, of the member in columns."""
        if anchor < member:
            return self.moments[anchor, member].finalize().correlation
        return self.moments[member, anchor].finalize().correlation.T

    def permutation(self, anchor: int, member: int) -> Int64[Tensor, " f"]:
        """`pi`, with which `F[:, pi]` puts the member's features in the anchor's order."""
        if (anchor, member) not in self._found:
            self._found[anchor, member] = assign(self.correlation(anchor, member))
        return self._found[anchor, member]

    def permutations(self, window: Window, anchor: int) -> dict[int, Int64[Tensor, " f"]]:
        """Return the permutation of each member but the anchor.

        A member whose moments with the anchor were not collected is put in the order of its neighbour on that side.
        """
        found: dict[int, Int64[Tensor, " f"]] = {}
        at = window.index(anchor)
        for way in (window[at:], window[at::-1]):
            for neighbour, member in pairwise(way):
                if _pair(anchor, member) in self.moments:
                    found[member] = self.permutation(anchor, member)
                else:
                    found[member] = self.permutation(neighbour, member)[found[neighbour]]
        return found


def anchor_of(window: Window, anchor: Anchor) -> int:
    """Return the layer that the others are aligned with."""
    return {"first": window[0], "middle": window[len(window) // 2], "last": window[-1]}[anchor]


def collect_alignments(
    model: nn.Module,
    arch: Architecture,
    windows: Iterable[Window],
    anchor: Anchor,
    batches: Sequence[Batch],
    advance: Callable[[int], None] = lambda _: None,
    chained: bool = False,
) -> Alignments:
    """Collect them in one pass over `batches` for all windows.  `UserInputError` for a window that cannot be merged.

    chained  of neighbours instead of each member and the anchor: windows that overlap have these in common
    """
    pairs: set[Pair] = set()
    for window in windows:
        check_mergeable(model, arch, window)
        chosen = anchor_of(window, anchor)
        pairs |= set(pairwise(window)) if chained else {_pair(chosen, member) for member in window if member != chosen}
    paths = {layer: arch.producers(layer, Space.FFN)[-1].path for layer in range(arch.num_layers)}
    return Alignments(collect_pairs(model, arch, paths, pairs, arch.widths[Space.FFN], advancing(batches, advance)))


def _pair(one: int, other: int) -> Pair:
    return min(one, other), max(one, other)
