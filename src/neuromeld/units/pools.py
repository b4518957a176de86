"""Units that share a budget: which of them are kept, softly while scores are learned, and in the end."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuromeld.archs.spec import Space
from neuromeld.shapes import ACCUMULATE
from neuromeld.transport import kept_shares


@dataclass(frozen=True)
class Pool:
    """Units of one space that share a budget: those of one layer, or of several.

    space   the features of the units are in
    layers  whose units these are
    sizes   units in each of them
    keep    units to keep, of all together
    step    what a layer keeps is a multiple of this, and at least this, where there are several layers
    """

    space: Space
    layers: tuple[int, ...]
    sizes: tuple[int, ...]
    keep: int
    step: int = 1

    def shares(self, scores: Sequence[Tensor], temperature: float) -> list[Tensor]:
        """Return how much of each unit is kept, `(n,)` a layer, at scores alike; all of them where all fit."""
        total = sum(self.sizes)
        if self.keep >= total:
            return [torch.ones_like(layer) for layer in scores]
        costs = torch.ones(total, dtype=ACCUMULATE)
        return list(kept_shares(torch.cat(list(scores)), costs, self.keep, temperature).split(self.sizes))

    def widths(self, scores: Sequence[Tensor]) -> list[int]:
        """Return how many units each layer keeps: the next step goes to the layer where it has the largest scores."""
        if len(self.sizes) == 1:
            return [self.keep]
        steps = [layer.sort(descending=True).values.split(self.step) for layer in scores]
        widths = [len(first) for first, *_ in steps]
        more = [(float(s.mean()), layer, len(s)) for layer, found in enumerate(steps) for s in found[1:]]
        for _, layer, size in sorted(more, key=lambda one: one[0], reverse=True):
            if sum(widths) + size <= self.keep:
                widths[layer] += size
        return widths

    def choice(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Return 1 for units that are kept in the end and 0 for the others, `(n,)` a layer."""
        masks = [torch.zeros_like(layer) for layer in scores]
        for mask, layer, width in zip(masks, scores, self.widths(scores), strict=True):
            mask[layer.topk(width).indices] = 1
        return masks
