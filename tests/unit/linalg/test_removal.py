"""Greedy removal against brute force: every choice by its least squares, the ridge as further samples."""

import pytest
import torch

from neuromeld.linalg import removal
from neuromeld.linalg.removal import greedy_removal

RTOL = 1e-8
F, D = 12, 4


@pytest.fixture
def problem():
    """A damped Gram matrix of correlated features, and the weights that read them."""
    generator = torch.Generator().manual_seed(0)
    z, mix, weights = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((50, F), (F, F), (F, D)))
    z = z @ (torch.eye(F) + mix / 4)
    return z.T @ z / 50 + 0.01 * torch.eye(F, dtype=torch.float64), weights


def refitted(hessian, weights, kept):
    """`H_KK^-1 H_K: W_0`, and what it costs."""
    best = torch.zeros_like(weights)
    best[kept] = torch.linalg.solve(hessian[kept][:, kept], hessian[kept] @ weights)
    lost = best - weights
    return best, float((lost * (hessian @ lost)).sum())


def features(units, size):
    return [unit * size + i for unit in units for i in range(size)]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_each_unit_that_goes_is_the_one_whose_loss_the_others_make_up_for_best(problem, size):
    hessian, weights = problem
    found = greedy_removal(hessian, weights, size)
    left, before = list(range(F // size)), 0.0
    for unit, raised in zip(found.order.tolist(), found.errors.tolist(), strict=True):
        costs = {u: refitted(hessian, weights, features([v for v in left if v != u], size))[1] for u in left}
        assert unit == min(costs, key=lambda u: costs[u])
        assert raised == pytest.approx(costs[unit] - before, rel=RTOL)
        before = costs[unit]
        left.remove(unit)


@pytest.mark.parametrize("size", [1, 3])
def test_what_is_left_equals_the_ridge_shrunk_towards_the_weights(problem, size):
    """Selection and compensation are one optimum, at the same damping, at every width."""
    hessian, weights = problem
    inverse, now, left = torch.linalg.inv(hessian), weights, torch.arange(F)
    for unit in greedy_removal(hessian, weights, size).order[:-1]:
        gone = torch.isin(left, torch.tensor(features([int(unit)], size))).nonzero()[:, 0]
        stays = (~torch.isin(torch.arange(len(left)), gone)).nonzero()[:, 0]
        inverse, now = removal._without(inverse, now, gone, stays)
        left = left[stays]
        torch.testing.assert_close(now, refitted(hessian, weights, left)[0][left], rtol=RTOL, atol=1e-10)


def test_blocks_of_candidates_lose_hardly_more_than_one_at_a_time(problem, monkeypatch):
    hessian, weights = problem
    exact = greedy_removal(hessian, weights)
    monkeypatch.setattr(removal, "CANDIDATES", 6)
    monkeypatch.setattr(removal, "AT_ONCE", 2)
    blocked = greedy_removal(hessian, weights)
    assert sorted(blocked.order.tolist()) == list(range(F))
    for gone in range(F):
        lost = refitted(hessian, weights, blocked.order[gone:].tolist())[1]
        assert float(blocked.errors[:gone].sum()) == pytest.approx(lost, rel=RTOL, abs=1e-12)
        assert lost <= 1.1 * float(exact.errors[:gone].sum()) + 1e-12


def test_features_that_do_nothing_go_first():
    gram = torch.diag(torch.tensor([1.0, 0.0, 2.0, 0.0], dtype=torch.float64)) + 0.01 * torch.eye(4)
    weights = torch.ones(4, 2, dtype=torch.float64)
    weights[2] = 0
    order = greedy_removal(gram, weights).order.tolist()
    assert order[0] == 2
    assert set(order[1:3]) == {1, 3}
