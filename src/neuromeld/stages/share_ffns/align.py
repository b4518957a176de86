"""Which hidden unit of one FF sublayer is which of another: correlate on the same tokens, then assign.

Features are what stands just before the nonlinearity; in a gated FFN, where two matrices produce, what the last one
writes, be it a module of its own or not (arXiv:2501.06126 section 3.2).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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

    def correlation(self, anchor: int, member: int) -> Float64[Tensor, "f f"]:
        """Units of the anchor in rows, of the member in columns."""
        if anchor < member:
            return self.moments[anchor, member].finalize().correlation
        return self.moments[member, anchor].finalize().correlation.T

    def permutation(self, anchor: int, member: int) -> Int64[Tensor, " f"]:
        """`pi`, with which `F[:, pi]` puts the member's features in the anchor's order."""
        return assign(self.correlation(anchor, member))


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
) -> Alignments:
    """Collect them in one pass over `batches` for all windows.  `UserInputError` for a window that cannot be merged."""
    pairs: set[Pair] = set()
    for window in windows:
        check_mergeable(model, arch, window)
        chosen = anchor_of(window, anchor)
        pairs |= {(min(chosen, member), max(chosen, member)) for member in window if member != chosen}
    paths = {layer: arch.producers(layer, Space.FFN)[-1].path for layer in range(arch.num_layers)}
    return Alignments(collect_pairs(model, arch, paths, pairs, arch.widths[Space.FFN], advancing(batches, advance)))
