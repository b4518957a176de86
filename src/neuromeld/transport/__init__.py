"""Optimal transport between neurons: a cost, a plan, and the hard assignment."""

from neuromeld.transport.assignment import assign
from neuromeld.transport.capacity import kept_shares
from neuromeld.transport.cost import scale_cost, transport_plan
from neuromeld.transport.sinkhorn import TransportResult, sinkhorn
from neuromeld.transport.summary import PlanSummary, summarise_plan

__all__ = [
    "PlanSummary",
    "TransportResult",
    "assign",
    "kept_shares",
    "scale_cost",
    "sinkhorn",
    "summarise_plan",
    "transport_plan",
]
