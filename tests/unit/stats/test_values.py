"""Each statistic against the formula written out in numpy or torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from neuromeld.stats import CrossMoments, PairMoments, PairwiseL1, StreamMoments

FLOAT64 = 1e-12
FLOAT32 = 1e-5
EPS = 1e-2
"""Large enough, beside the activations below, that leaving it out shows."""


def tokens(n: int = 50, d: int = 7, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.3 + 0.5 * torch.randn(n, d, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("centre", [False, True])
def test_moments_equal_numpy(centre: bool) -> None:
    x = tokens()
    statistic = StreamMoments(7, centre=centre, eps=EPS)
    statistic.update(x)
    moments = statistic.finalize()

    raw = x.numpy()
    centred = raw - raw.mean(axis=1, keepdims=True) if centre else raw
    normalised = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + EPS)
    np.testing.assert_allclose(moments.second_moment, raw.T @ raw / 50, rtol=FLOAT64, atol=FLOAT64)
    np.testing.assert_allclose(
        moments.normalised_second_moment, normalised.T @ normalised / 50, rtol=FLOAT64, atol=FLOAT64
    )
    np.testing.assert_allclose(moments.mean_abs, np.abs(raw).mean(axis=0), rtol=FLOAT64, atol=FLOAT64)
    np.testing.assert_allclose(moments.mean, raw.mean(axis=0), rtol=FLOAT64, atol=FLOAT64)
    assert moments.num_tokens == 50


@pytest.mark.parametrize("centre", [False, True])
def test_normalised_stream_is_the_one_that_torch_norms_give(centre: bool) -> None:
    x = tokens()
    normalised = F.layer_norm(x, (7,), eps=EPS) if centre else F.rms_norm(x, (7,), eps=EPS)
    statistic = StreamMoments(7, centre=centre, eps=EPS)
    statistic.update(x)
    actual = statistic.finalize().normalised_second_moment
    torch.testing.assert_close(actual, normalised.T @ normalised / 50, rtol=FLOAT64, atol=FLOAT64)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, FLOAT64), (torch.float32, FLOAT32)])
def test_pairwise_equals_the_formula(dtype: torch.dtype, tolerance: float) -> None:
    x = tokens()
    statistic = PairwiseL1(7)
    statistic.update(x.to(dtype))
    expected = (x[:, :, None] - x[:, None, :]).abs().mean(dim=0)
    torch.testing.assert_close(statistic.finalize(), expected, rtol=tolerance, atol=tolerance)


def test_pairwise_distance_of_duplicated_neurons_is_zero() -> None:
    x = tokens()
    statistic = PairwiseL1(14)
    statistic.update(torch.cat([x, x], dim=1))
    assert torch.equal(statistic.finalize()[:7, 7:].diagonal(), torch.zeros(7, dtype=torch.float64))


def test_cross_gives_the_least_squares_solution() -> None:
    x, y = tokens(), tokens(d=4, seed=1)
    statistic = CrossMoments(7, 4)
    statistic.update(x, y)
    cross = statistic.finalize()
    expected, *_ = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)
    np.testing.assert_allclose(torch.linalg.solve(cross.gram, cross.cross), expected, rtol=1e-10, atol=1e-10)


def test_cross_gives_the_error_of_any_map() -> None:
    x, y = tokens(), tokens(d=4, seed=1)
    statistic = CrossMoments(7, 4)
    statistic.update(x, y)
    cross = statistic.finalize()
    m = tokens(7, 4, seed=2)
    error = cross.target_energy - 2 * (m * cross.cross).sum() + (m * (cross.gram @ m)).sum()
    torch.testing.assert_close(error, (y - x @ m).square().sum(dim=1).mean(), rtol=FLOAT64, atol=FLOAT64)
    assert cross.num_tokens == 50


def test_covariance_and_correlation_equal_numpy() -> None:
    a, b = tokens(), tokens(d=4, seed=1)
    b[:, 2] += 3 * a[:, 1]
    statistic = PairMoments(7, 4)
    statistic.update(a, b)
    found = statistic.finalize()
    expected = np.cov(a.numpy(), b.numpy(), rowvar=False, bias=True)
    np.testing.assert_allclose(found.cross, expected[:7, 7:], rtol=FLOAT64, atol=FLOAT64)
    correlation = np.corrcoef(a.numpy(), b.numpy(), rowvar=False)[:7, 7:]
    np.testing.assert_allclose(found.correlation, correlation, rtol=FLOAT64, atol=FLOAT64)


def test_correlation_divides_by_no_less_than_the_clip() -> None:
    a, b = 1e-6 * tokens(), 1e-3 * tokens(d=4, seed=1)
    statistic = PairMoments(7, 4)
    statistic.update(a, b)
    found = statistic.finalize()
    torch.testing.assert_close(found.correlation, found.cross / 1e-7, rtol=FLOAT64, atol=FLOAT64)
