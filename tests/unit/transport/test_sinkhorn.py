"""Laws of an entropic transport plan, with POT as the oracle."""

import math

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from neuromeld.errors import NumericsError, UserInputError
from neuromeld.transport import sinkhorn

FLOAT64 = 1e-12
"""Plans have mass 1; both sides are solved to a marginal error far below this."""
FLOAT32 = 1e-6


def problem(d: int, k: int, seed: int = 0, *, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cost = scale * torch.rand(d, k, dtype=torch.float64, generator=generator)
    a = 0.1 + torch.rand(d, dtype=torch.float64, generator=generator)
    b = 0.1 + torch.rand(k, dtype=torch.float64, generator=generator)
    return cost, a / a.sum(), b / b.sum()


def uniform(n: int) -> Tensor:
    return torch.full((n,), 1 / n, dtype=torch.float64)


@pytest.mark.parametrize("reg", [1.0, 0.1, 0.02])
def test_equals_pot(reg: float) -> None:
    cost, a, b = problem(12, 7)
    plan = sinkhorn(cost, a, b, reg=reg, tolerance=1e-14, max_iterations=20000).plan
    expected = ot.bregman.sinkhorn_log(a, b, cost, reg, stopThr=1e-15, numItermax=20000, warn=False)
    torch.testing.assert_close(plan, expected, atol=FLOAT64, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    d=st.integers(1, 9),
    k=st.integers(1, 9),
    seed=st.integers(0, 999),
    log_scale=st.integers(-3, 4),
    reg=st.sampled_from([1.0, 0.1, 0.01]),
)
def test_plan_has_the_marginals_that_it_reports(d: int, k: int, seed: int, log_scale: int, reg: float) -> None:
    cost, a, b = problem(d, k, seed, scale=10.0**log_scale)
    result = sinkhorn(cost, a, b, reg=reg * 10.0**log_scale, max_iterations=20000)
    assert result.status == "converged"
    assert result.marginal_error <= 1e-6
    assert bool((result.plan >= 0).all())
    torch.testing.assert_close(result.plan.sum(dim=0), b, atol=FLOAT64, rtol=0)
    row_error = float((result.plan.sum(dim=1) - a).abs().sum())
    assert row_error == pytest.approx(result.marginal_error, abs=FLOAT64)


def test_plan_is_optimal() -> None:
    """At the optimum `log T + C / reg` is a row plus a column potential, so double centring leaves nothing."""
    cost, a, b = problem(8, 5)
    log_form = sinkhorn(cost, a, b, reg=0.1).plan.log() + cost / 0.1
    rows, columns = log_form.mean(dim=1, keepdim=True), log_form.mean(dim=0, keepdim=True)
    torch.testing.assert_close(log_form, rows + columns - log_form.mean(), atol=FLOAT64, rtol=FLOAT64)


def test_permuting_neurons_permutes_the_plan() -> None:
    cost, a, b = problem(10, 6)
    rows, columns = torch.randperm(10), torch.randperm(6)
    plan = sinkhorn(cost, a, b, reg=0.1).plan
    permuted = sinkhorn(cost[rows][:, columns], a[rows], b[columns], reg=0.1).plan
    torch.testing.assert_close(permuted, plan[rows][:, columns], atol=FLOAT64, rtol=0)


@pytest.mark.parametrize("reg", [0.1, 0.01, 0.001])
def test_small_reg_approaches_the_exact_cost(reg: float) -> None:
    """`0 <= <T, C> - LP <= reg * log(d k)`: the entropy of a plan is at most `log(d k)`."""
    cost, a, b = problem(10, 6)
    tolerance = 1e-9
    plan = sinkhorn(cost, a, b, reg=reg, tolerance=tolerance, max_iterations=20000).plan
    excess = float((plan * cost).sum()) - float(ot.emd2(a, b, cost))
    assert -tolerance <= excess <= reg * math.log(60)


def test_duplicated_neurons_go_where_their_twin_stays() -> None:
    kept = torch.arange(6)
    positions = torch.cat([kept, kept]).double()
    cost = (positions[:, None] - positions[kept]).abs()
    plan = sinkhorn(cost, uniform(12), uniform(6), reg=0.02).plan
    expected = torch.eye(6, dtype=torch.float64).repeat(2, 1) / 12
    torch.testing.assert_close(plan, expected, atol=FLOAT64, rtol=0)


@pytest.mark.parametrize("distance", [1e2, 1e4])
def test_an_outlier_neuron_does_not_stop_convergence(distance: float) -> None:
    cost, _, _ = problem(30, 20)
    cost[0] += distance
    cost[:, 0] += distance
    cost[0, 0] = 0
    result = sinkhorn(cost, uniform(30), uniform(20), reg=0.1)
    assert result.status == "converged"
    assert result.iterations < 1000


def test_gradient_in_cost() -> None:
    cost, a, b = problem(5, 4)
    cost[0] += 40  # needs falling steps of reg
    cost.requires_grad_()
    assert torch.autograd.gradcheck(lambda c: sinkhorn(c, a, b, reg=0.3, tolerance=1e-13).plan, cost)


def test_nothing_is_tracked_without_a_gradient() -> None:
    cost, a, b = problem(5, 4)
    assert not sinkhorn(cost, a, b, reg=0.3).plan.requires_grad


def test_float32_input_gives_a_float64_plan() -> None:
    cost, a, b = problem(50, 30)[0], uniform(50), uniform(30)
    assert a.float().double().sum() != b.float().double().sum()
    expected = sinkhorn(cost, a, b, reg=0.1, tolerance=1e-12)
    result = sinkhorn(cost.float(), a.float(), b.float(), reg=0.1, tolerance=1e-12)
    assert result.status == "converged"
    assert result.plan.dtype == torch.float64
    torch.testing.assert_close(result.plan, expected.plan, atol=FLOAT32, rtol=0)


def test_running_out_of_iterations_is_a_status_that_teaches() -> None:
    cost, a, b = problem(12, 7)
    result = sinkhorn(cost, a, b, reg=1.0, max_iterations=3, tolerance=1e-12)
    assert result.status == "max_iterations"
    assert result.iterations == 3
    assert result.marginal_error > 1e-12
    assert "raise max_iterations" in result.message
    assert "reg (now 1" in result.message


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_refuses_a_cost_that_is_not_finite(value: float) -> None:
    cost, a, b = problem(4, 3)
    cost[1, 1] = value
    with pytest.raises(NumericsError, match="NaN or infinite"):
        sinkhorn(cost, a, b, reg=0.1)


def test_refuses_masses_beyond_the_range_of_float64() -> None:
    cost, _, _ = problem(30, 30, seed=1, scale=1000)
    masses = 10 ** torch.linspace(-100, 0, 30, dtype=torch.float64)
    with pytest.raises(NumericsError, match="too many orders apart"):
        sinkhorn(cost, masses / masses.sum(), masses / masses.sum(), reg=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reg": 0.0}, "reg=0.0 is not positive"),
        ({"reg": math.nan}, "reg=nan is not positive"),
        ({"reg": math.inf}, "reg=inf is not positive and finite"),
        ({"a": torch.full((4,), 0.5)}, "a sums to 2"),
        ({"b": torch.tensor([1.0, 0.0, 0.0])}, "b has masses that are not positive"),
        ({"max_iterations": 0}, "max_iterations=0"),
        ({"check_every": 0}, "check_every=0"),
        ({"cost": torch.zeros(0, 3), "a": torch.zeros(0)}, "pass a non-empty matrix"),
    ],
)
def test_refuses_what_is_no_problem(change: dict[str, object], message: str) -> None:
    cost, a, b = problem(4, 3)
    arguments = {"cost": cost, "a": a, "b": b, "reg": 0.1, **change}
    with pytest.raises(UserInputError, match=message):
        sinkhorn(**arguments)  # type: ignore[arg-type]


def test_refuses_marginals_of_another_length() -> None:
    """By the shape annotations where a type checker reads them, else by our own check."""
    cost, a, b = problem(4, 3)
    with pytest.raises((UserInputError, TypeCheckError), match=r"a has shape \(3,\)|parameter 'a'"):
        sinkhorn(cost, b, a, reg=0.1)


def test_reports_all_problems_at_once() -> None:
    cost, a, b = problem(4, 3)
    with pytest.raises(UserInputError, match=r"a sums to 2.*b sums to 2.*reg=-1"):
        sinkhorn(cost, 2 * a, 2 * b, reg=-1.0)
