"""Keep a refit from harming the typical token.

A few tokens have streams of huge norms (arXiv:2402.17762), and a sum of squares sees little else where a sublayer takes
these away again.  So what a refit does to most tokens is looked at, too (docs/decisions/0059).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.runtime.distributed import sum_tensor
from neuromeld.shapes import ACCUMULATE
from neuromeld.stats import Features, TargetMoments
from neuromeld.stats.split import SplitStatistic
from neuromeld.units.compensation import Compensated

LARGEST = 8.0
"""Times what is typical: tokens for which more should be written are left out of a refit that harms the others."""

MOST = 2 / 3
"""Of the tokens, so that a refit which makes no difference is not made twice by chance."""


@dataclass(frozen=True)
class Tokens:
    """The calibration tokens of a sublayer, one by one.

    num_batches, is_held_out   of the data
    pair                       by batch, the features that are left `(n, m)` and what should be written `(n, d)`
    """

    num_batches: int
    is_held_out: Callable[[int], bool]
    pair: Callable[[int], tuple[Tensor, Tensor]]

    def harmed_by(self, found: Compensated, initial: Float[Tensor, "m d"]) -> bool:
        """Tell whether most of the held-out tokens err more than before."""
        worse = torch.zeros(2, dtype=ACCUMULATE)
        for b in filter(self.is_held_out, range(self.num_batches)):
            z, y = (x.to(ACCUMULATE) for x in self.pair(b))
            written = z @ found.fit.matrix
            after = y - (written if found.shift is None else written + found.shift)
            grown = after.norm(dim=1) > (y - z @ initial).norm(dim=1)
            worse += torch.stack([grown.sum(), (~grown).sum()]).to(worse)
        more, others = sum_tensor(worse)
        return bool(more > MOST * (more + others))

    def usual(self, width_in: int, width_out: int) -> tuple[Features, Features]:
        """Return the moments, to fit on and held out, without the tokens for which by far the most should be written.

        width_in, width_out   features that are left, and the width of the stream
        """
        logs = torch.zeros(2, dtype=ACCUMULATE)
        for b in filter(self.is_held_out, range(self.num_batches)):
            sizes = self.pair(b)[1].to(ACCUMULATE).norm(dim=1).clamp_min(torch.finfo(ACCUMULATE).tiny)
            logs += torch.stack([sizes.log().sum().cpu(), torch.tensor(float(len(sizes)), dtype=ACCUMULATE)])
        total, num = sum_tensor(logs)
        largest = LARGEST * float((total / num).exp())
        sums = SplitStatistic(lambda: TargetMoments(width_in, width_out))
        for b in range(self.num_batches):
            z, y = self.pair(b)
            few = y.norm(dim=1) <= largest
            sums.update(self.is_held_out(b), z[few], y[few])
        fitted, held_out = sums.finalize()
        return fitted, held_out
