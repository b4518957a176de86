"""Optimal transport between neurons: a cost, a plan, and the hard assignment."""

from neuromeld.transport.assignment import assign
from neuromeld.transport.cost import scale_cost, transport_plan
from neuromeld.transport.result import TransportResult
from neuromeld.transport.sinkhorn import sinkhorn

__all__ = ["TransportResult", "assign", "scale_cost", "sinkhorn", "transport_plan"]
