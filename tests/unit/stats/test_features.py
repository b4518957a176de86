"""Features against numpy on the samples."""

import numpy as np
import pytest
import torch

from neuromeld.stats import FeatureMoments, TargetMoments
from neuromeld.stats.gram import fill_upper

RTOL = 1e-10


@pytest.fixture
def samples():
    draw = np.random.default_rng(0)
    return draw.normal(size=(60, 6)) + draw.normal(size=6), draw.normal(size=(60, 4)) + 3 * draw.normal(size=4)


def features(z: np.ndarray, y: np.ndarray):
    moments = TargetMoments(z.shape[1], y.shape[1])
    moments.update(torch.from_numpy(z), torch.from_numpy(y))
    return moments.finalize()


def same(found: torch.Tensor, expected: object) -> None:
    np.testing.assert_allclose(found, expected, rtol=RTOL, atol=1e-12)


def test_narrow_is_the_features_of_some_columns(samples):
    z, y = samples
    kept = [4, 1, 3]
    found, expected = features(z, y).narrow(torch.tensor(kept)), features(z[:, kept], y)
    for name in ("gram", "cross", "mean", "mean_abs", "target_mean", "target_energy"):
        same(getattr(found, name), getattr(expected, name))
    assert found.num_tokens == 60


def test_regression_without_an_intercept_is_of_the_samples_themselves(samples):
    z, y = samples
    found = features(z, y).regression()
    same(found.gram, z.T @ z / 60)
    same(found.cross, z.T @ y / 60)
    same(found.target_energy, (y**2).sum() / 60)


@pytest.mark.parametrize("means_of", [slice(0, 60), slice(0, 20)], ids=["its own", "others"])
def test_regression_with_an_intercept_passes_through_means(samples, means_of):
    z, y = samples
    found = features(z, y).regression(features(z[means_of], y[means_of]))
    z, y = z - z[means_of].mean(0), y - y[means_of].mean(0)
    same(found.gram, z.T @ z / 60)
    same(found.cross, z.T @ y / 60)
    same(found.target_energy, (y**2).sum() / 60)


def test_the_gram_matrix_says_all_of_targets_that_are_written_from_the_features(samples):
    z, _ = samples
    matrix = np.random.default_rng(1).normal(size=(6, 4))
    moments = FeatureMoments(6)
    moments.update(torch.from_numpy(z))
    found, expected = moments.finalize(torch.from_numpy(matrix)), features(z, z @ matrix)
    for name in ("gram", "cross", "mean", "mean_abs", "target_mean", "target_energy"):
        same(getattr(found, name), getattr(expected, name))
    assert found.num_tokens == expected.num_tokens


def test_one_triangle_says_everything():
    total = torch.randn(8, 8, dtype=torch.float64)
    expected = total.tril() + total.tril(-1).T
    assert torch.equal(fill_upper(total, rows=3), expected)
