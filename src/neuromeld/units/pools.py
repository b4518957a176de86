"""Units that share a budget: which of them are kept, softly while scores are learned, and in the end."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuromeld.archs.spec import Space
from neuromeld.shapes import ACCUMULATE
from neuromeld.transport import kept_shares


@dataclass(frozen=True)
class LayerUnits:
    """The units of one layer that share a budget.

    space  that their features are in
    count  how many there are
    cost   of each, in the unit of the budget
    step   what the layer keeps is a multiple of this, and at least this, where several share the budget
    """

    space: Space
    layer: int
    count: int
    cost: int = 1
    step: int = 1


@dataclass(frozen=True)
class Pool:
    """Units that share a budget: those of one layer, or of several layers and spaces.

    budget  what those that are kept cost at most, all together
    """

    members: tuple[LayerUnits, ...]
    budget: int

    @property
    def compares(self) -> bool:
        """Whether layers, or spaces, are compared."""
        return len(self.members) > 1

    @property
    def counts(self) -> list[int]:
        """Return the number of units of each member."""
        return [member.count for member in self.members]

    def shares(self, scores: Sequence[Tensor], temperature: float) -> list[Tensor]:
        """Return how much of each unit is kept, `(n,)` a member, at scores alike; all of them where all fit."""
        costs = torch.cat([torch.full((member.count,), member.cost, dtype=ACCUMULATE) for member in self.members])
        if self.budget >= float(costs.sum()):
            return [torch.ones_like(own) for own in scores]
        return list(kept_shares(torch.cat(list(scores)), costs, self.budget, temperature).split(self.counts))

    def widths(self, scores: Sequence[Tensor]) -> list[int]:
        """Return how many units each member keeps: the next step goes to the one where it has the largest scores."""
        if not self.compares:
            return [self.budget // self.members[0].cost]
        steps = [
            own.sort(descending=True).values.split(one.step) for own, one in zip(scores, self.members, strict=True)
        ]
        widths = [len(first) for first, *_ in steps]
        left = self.budget - sum(width * one.cost for width, one in zip(widths, self.members, strict=True))
        more = [(float(s.mean()), number, len(s)) for number, found in enumerate(steps) for s in found[1:]]
        for _, number, size in sorted(more, key=lambda one: one[0], reverse=True):
            cost = size * self.members[number].cost
            if cost <= left:
                widths[number] += size
                left -= cost
        return widths

    def choice(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Return 1 for units that are kept in the end and 0 for the others, `(n,)` a member."""
        masks = [torch.zeros_like(own) for own in scores]
        for mask, own, width in zip(masks, scores, self.widths(scores), strict=True):
            mask[own.topk(width).indices] = 1
        return masks
