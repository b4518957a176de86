import pytest
import torch

from neuromeld.transport import scale_cost, sinkhorn, transport_plan

FLOAT64 = 1e-12


def distances(d: int, k: int) -> torch.Tensor:
    positions = torch.rand(d, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.cdist(positions, positions[:k], p=1)


def test_the_median_positive_entry_becomes_one() -> None:
    cost = torch.tensor([[0.0, 0.0, 2.0], [4.0, 6.0, 0.0]])
    torch.testing.assert_close(scale_cost(cost), cost / 4)


def test_an_outlier_leaves_the_other_costs_as_they_are() -> None:
    cost = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    with_outlier = torch.tensor([[0.0, 1.0, 2.0, 3000.0]])
    torch.testing.assert_close(scale_cost(with_outlier)[:, :3], scale_cost(cost)[:, :3])


def test_an_all_zero_cost_is_unchanged() -> None:
    assert torch.equal(scale_cost(torch.zeros(3, 2)), torch.zeros(3, 2))


def test_plan_has_uniform_marginals() -> None:
    result = transport_plan(distances(12, 8), reg=0.1)
    torch.testing.assert_close(result.plan.sum(dim=0), torch.full((8,), 1 / 8, dtype=torch.float64))
    assert float((result.plan.sum(dim=1) - 1 / 12).abs().sum()) <= 1e-6


def test_plan_is_that_of_the_scaled_cost() -> None:
    cost = distances(12, 8)
    a, b = torch.full((12,), 1 / 12, dtype=torch.float64), torch.full((8,), 1 / 8, dtype=torch.float64)
    expected = sinkhorn(cost / cost[cost > 0].median(), a, b, reg=0.1).plan
    torch.testing.assert_close(transport_plan(cost, reg=0.1).plan, expected, atol=FLOAT64, rtol=0)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_plan_does_not_depend_on_the_unit_of_the_cost(unit: float) -> None:
    cost = distances(12, 8)
    expected = transport_plan(cost, reg=0.1).plan
    torch.testing.assert_close(transport_plan(unit * cost, reg=0.1).plan, expected, atol=FLOAT64, rtol=0)


def test_indistinguishable_neurons_are_spread_evenly() -> None:
    plan = transport_plan(torch.zeros(6, 4), reg=0.1).plan
    torch.testing.assert_close(plan, torch.full((6, 4), 1 / 24, dtype=torch.float64), atol=FLOAT64, rtol=0)
