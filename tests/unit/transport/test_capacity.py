"""Laws of soft choice under a capacity."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromeld.errors import UserInputError
from neuromeld.transport import kept_shares


def problem(num, seed):
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(num, generator=draw, dtype=torch.float64)
    return scores, torch.rand(num, generator=draw, dtype=torch.float64) + 0.1


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 50), st.integers(0, 2**31), st.floats(0.02, 0.98), st.floats(1e-3, 1e3))
def test_the_capacity_is_met_and_order_is_kept(num, seed, share, temperature):
    scores, costs = problem(num, seed)
    capacity = share * float(costs.sum())
    kept = kept_shares(scores, costs, capacity, temperature)
    assert float((costs * kept).sum()) == pytest.approx(capacity, rel=1e-9)
    assert (kept[scores.argsort()].diff() >= 0).all()
    torch.testing.assert_close(kept_shares(scores + 5, costs, capacity, temperature), kept, rtol=1e-6, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**31), st.floats(0.1, 0.9))
def test_the_gradient_is_that_of_finite_differences(num, seed, share):
    scores, costs = problem(num, seed)
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: kept_shares(s, costs, share * float(costs.sum()), 0.5), (scores,))


def test_a_low_temperature_keeps_the_largest_scores():
    scores, _ = problem(20, 3)
    kept = kept_shares(scores, torch.ones(20), 7, 1e-4)
    assert set(kept.topk(7).indices.tolist()) == set(scores.topk(7).indices.tolist())
    torch.testing.assert_close(kept.sort().values.round(), kept.sort().values, rtol=0, atol=1e-6)


def test_it_is_the_transport_plan_of_two_bins():
    """Sinkhorn between the units and the two bins gives the same plan."""
    from neuromeld.transport import sinkhorn

    scores, costs = problem(9, 1)
    masses, capacity = costs / costs.sum(), 0.4
    cost = torch.stack([-scores, torch.zeros_like(scores)], dim=1)
    bins = torch.tensor([capacity, 1 - capacity], dtype=torch.float64)
    plan = sinkhorn(cost, masses, bins, reg=0.3, max_iterations=5000, tolerance=1e-12).plan
    kept = kept_shares(scores, costs, capacity * float(costs.sum()), 0.3)
    torch.testing.assert_close(plan[:, 0], masses * kept, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("capacity", "temperature"), [(0.0, 1.0), (20.0, 1.0), (3.0, 0.0)])
def test_problems_that_are_none(capacity, temperature):
    with pytest.raises(UserInputError, match="must lie between 0 and the 20 of all units"):
        kept_shares(torch.zeros(20), torch.ones(20), capacity, temperature)
