"""Every selector against its formula on the samples themselves."""

import numpy as np
import pytest
import torch

from neuromeld.errors import UserInputError
from neuromeld.stats import FeatureMoments
from neuromeld.units.selectors import LEVERAGE_RIDGE, SELECTORS, Units

RTOL = 1e-9
N, F, D = 300, 7, 5


@pytest.fixture
def samples():
    """Features with a mean, correlated, of different sizes; weights that read them."""
    draw = np.random.default_rng(0)
    z = (draw.normal(size=(N, F)) @ draw.normal(size=(F, F)) + draw.normal(size=F)) * draw.uniform(0.1, 3, size=F)
    return z, draw.normal(size=(F, D))


def score(name: str, z: np.ndarray, w: np.ndarray, seed: int = 0) -> np.ndarray:
    moments = FeatureMoments(F)
    moments.update(torch.from_numpy(z))
    weights = torch.from_numpy(w)
    return SELECTORS[name](Units(moments.finalize(weights), weights, seed=seed)).numpy()


DIRECT = {
    "mean_abs_activation": lambda z, _: np.abs(z).mean(0),
    "wanda": lambda z, w: np.sqrt((z**2).mean(0)) * np.linalg.norm(w, axis=1),
    "flap": lambda z, w: z.var(0) * (w**2).sum(1),
}


@pytest.mark.parametrize("name", DIRECT)
def test_formula(name, samples):
    np.testing.assert_allclose(score(name, *samples), DIRECT[name](*samples), rtol=RTOL)


def damping(z: np.ndarray) -> float:
    return LEVERAGE_RIDGE * float((z**2).mean(0).mean())


def test_leverage_is_the_diagonal_of_the_ridge_hat_matrix(samples):
    """How much of feature j is left to itself: `[G (G + lambda)^-1]_jj`."""
    z, w = samples
    gram = z.T @ z / N
    expected = np.diagonal(gram @ np.linalg.inv(gram + damping(z) * np.eye(F)))
    np.testing.assert_allclose(score("leverage", z, w), expected, rtol=RTOL)
    assert (np.diff(np.sort(expected)) > 1e-3).all()


def test_obs_is_the_error_of_removing_one_neuron_and_refitting_the_others(samples):
    """Brute force, the ridge as further samples: `|z W - z M|^2 / n + lambda |W - M|^2` with row j of `M` at zero."""
    z, w = samples
    rows = np.concatenate([z / np.sqrt(N), np.sqrt(damping(z)) * np.eye(F)])
    expected = []
    for j in range(F):
        others = np.delete(rows, j, axis=1)
        solution, *_ = np.linalg.lstsq(others, rows @ w, rcond=None)
        expected.append(((rows @ w - others @ solution) ** 2).sum())
    np.testing.assert_allclose(score("obs", z, w), expected, rtol=RTOL)


def test_obs_sees_that_others_can_stand_in_and_wanda_does_not(samples):
    z, w = samples
    mixed = z[:, 2] + z[:, 4]
    linear = z.copy()
    linear[:, 5] = mixed * np.linalg.norm(z[:, 5]) / np.linalg.norm(mixed)
    before, after = (score("obs", x, w)[5] for x in (z, linear))
    assert after < before / 3
    assert score("wanda", linear, w)[5] == pytest.approx(score("wanda", z, w)[5])


def test_random_is_the_seed_alone(samples):
    z, w = samples
    assert (score("random", z, w, 1) == score("random", 2 * z, -w, 1)).all()
    assert (score("random", z, w, 1) != score("random", z, w, 2)).any()


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserInputError, match="unknown selector 'wand'. Did you mean 'wanda'?"):
        SELECTORS["wand"]
