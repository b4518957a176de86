"""The refit against direct regression."""

import pytest
import torch

from neuromeld.errors import NumericsError
from neuromeld.linalg.ridge import COMBINATIONS, FFN_LAMBDAS, best_multiple, refit, relative_error
from neuromeld.stats import CrossMoments

FLOAT64 = 1e-9


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cross(x: torch.Tensor, y: torch.Tensor):
    statistic = CrossMoments(x.shape[1], y.shape[1])
    statistic.update(x, y)
    return statistic.finalize()


def test_relative_error_is_that_of_the_samples():
    x, y, matrix = randn(50, 4, seed=0), randn(50, 6, seed=1), randn(4, 6, seed=2)
    expected = (y - x @ matrix).square().sum() / y.square().sum()
    assert abs(relative_error(cross(x, y), matrix) - float(expected)) < FLOAT64


def test_a_linear_relation_is_found():
    truth = randn(4, 6, seed=0)
    x, held = randn(200, 4, seed=1), randn(40, 4, seed=2)
    result = refit(cross(x, x @ truth), cross(held, held @ truth), torch.zeros(4, 6, dtype=torch.float64))
    assert result.fit.kept
    assert result.fit.error_before == 1
    torch.testing.assert_close(result.matrix, truth, rtol=1e-4, atol=1e-4)


def test_many_targets_are_fitted_with_the_lambda_that_errs_least_on_all_of_them():
    width = 3 * COMBINATIONS
    truth, noise = randn(40, width, seed=0), randn(60, width, seed=3)
    for scale in (0.3, 5.0):  # the more noise, the larger the lambda
        x, held = randn(60, 40, seed=1), randn(80, 40, seed=2)
        fitted, held_out = cross(x, x @ truth + scale * noise), cross(held, held @ truth)
        initial = torch.zeros_like(truth)
        found = refit(fitted, held_out, initial, FFN_LAMBDAS)
        alone = [refit(fitted, held_out, initial, [ridge]) for ridge in FFN_LAMBDAS]
        best = min(alone, key=lambda one: one.fit.error_after)
        assert found.fit == best.fit
        assert torch.equal(found.matrix, best.matrix)


def test_what_does_not_help_on_held_out_tokens_is_not_kept():
    truth = randn(4, 6, seed=0)
    x, held = randn(12, 4, seed=1), randn(400, 4, seed=2)
    noisy = x @ truth + 3 * randn(12, 6, seed=3)
    result = refit(cross(x, noisy), cross(held, held @ truth), truth)
    assert not result.fit.kept
    assert result.matrix is truth
    assert result.fit.error_after == result.fit.error_before


@pytest.mark.parametrize("lambdas", [(), (1e-3,), FFN_LAMBDAS])
def test_what_is_not_finite_is_not_kept_in_silence(lambdas):
    x, y = randn(20, 4, seed=0), randn(20, 6, seed=1)
    with pytest.raises(NumericsError, match="not finite"):
        refit(cross(x, y), cross(x, y), torch.full((4, 6), torch.nan, dtype=torch.float64), lambdas)


def test_a_ridge_that_rules_leaves_what_it_shrinks_towards():
    x, y = randn(200, 4, seed=0), randn(200, 6, seed=1)
    initial, towards = randn(4, 6, seed=2), 0.01 * randn(4, 6, seed=3)
    result = refit(cross(x, y), cross(x, y), initial, lambdas=[1e12], towards=towards)
    torch.testing.assert_close(result.matrix, towards, rtol=0, atol=1e-9)
    assert result.fit.error_before == relative_error(cross(x, y), initial)


def test_no_multiple_errs_less():
    x, y, matrix = randn(50, 4, seed=0), randn(50, 6, seed=1), randn(4, 6, seed=2)
    moments = cross(x, y)
    found = best_multiple(moments, matrix)
    error = relative_error(moments, found)
    assert all(error < relative_error(moments, factor * found) for factor in (0.99, 1.01))
    torch.testing.assert_close(found / found[0, 0], matrix / matrix[0, 0])
    nothing = torch.zeros_like(matrix)
    assert best_multiple(moments, nothing) is nothing
