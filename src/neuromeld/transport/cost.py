"""From pairwise distances between neurons to a transport plan."""

import torch
from jaxtyping import Float
from torch import Tensor

from neuromeld.shapes import ACCUMULATE
from neuromeld.transport.sinkhorn import TransportResult, sinkhorn


def scale_cost(cost: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
    """Divide the cost by the median of its positive entries, so that one `reg` suits streams of any scale.

    The maximum would let a single outlier neuron flatten all other costs.  A cost without positive entries is
    returned unchanged.
    """
    positive = cost[cost > 0]
    return cost / positive.median() if len(positive) else cost


def transport_plan(cost: Float[Tensor, "d k"], *, reg: float) -> TransportResult:
    """Return the entropic plan that carries `d` neurons onto `k` of them, with uniform marginals `1/d` and `1/k`.

    cost  `(d, k)`, distances >= 0 in any unit (it is scaled here)
    reg   entropic regularisation, in median distances

    Raises what `sinkhorn` raises.  Source: arXiv:2507.04517; the uniform marginals and the scale of `reg`
    are our reading of it.
    """
    d, k = cost.shape
    a = torch.full((d,), 1 / d, dtype=ACCUMULATE, device=cost.device)
    b = torch.full((k,), 1 / k, dtype=ACCUMULATE, device=cost.device)
    return sinkhorn(scale_cost(cost.to(ACCUMULATE)), a, b, reg=reg)
