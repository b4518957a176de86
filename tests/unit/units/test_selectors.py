"""Every selector against its formula on the samples themselves."""

import numpy as np
import pytest
import torch

from neuromeld.errors import UserInputError
from neuromeld.stats import FeatureMoments
from neuromeld.units.selectors import DAMPING, SELECTORS, Units

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
    return DAMPING * float((z**2).mean(0).mean())


def test_leverage_is_the_diagonal_of_the_ridge_hat_matrix(samples):
    """How much of feature j is left to itself: `[G (G + lambda)^-1]_jj`."""
    z, w = samples
    gram = z.T @ z / N
    expected = np.diagonal(gram @ np.linalg.inv(gram + damping(z) * np.eye(F)))
    np.testing.assert_allclose(score("leverage", z, w), expected, rtol=RTOL)
    assert (np.diff(np.sort(expected)) > 1e-3).all()


def test_obs_sees_that_others_can_stand_in_and_wanda_does_not(samples):
    z, w = samples
    linear = z.copy()
    mixed = z[:, 2] + z[:, 4]
    linear[:, 5] = mixed * np.linalg.norm(z[:, 5]) / np.linalg.norm(mixed)
    before, after = (score("obs", x, w) for x in (z, linear))
    assert sorted(after) == list(range(F))
    assert after[[2, 4, 5]].min() < before[[2, 4, 5]].min()
    assert score("wanda", linear, w)[5] == pytest.approx(score("wanda", z, w)[5])


def test_obs_lets_the_features_of_a_unit_go_together(samples):
    z, w = (x[..., :6] if x.shape[0] == N else x[:6] for x in samples)
    moments = FeatureMoments(6)
    moments.update(torch.from_numpy(z))
    scores = SELECTORS["obs"](Units(moments.finalize(torch.from_numpy(w)), torch.from_numpy(w), size=2))
    assert (scores.view(3, 2)[:, 0] == scores.view(3, 2)[:, 1]).all()
    assert sorted(scores.view(3, 2)[:, 0].tolist()) == [0, 1, 2]


def test_random_is_the_seed_alone(samples):
    z, w = samples
    assert (score("random", z, w, 1) == score("random", 2 * z, -w, 1)).all()
    assert (score("random", z, w, 1) != score("random", z, w, 2)).any()


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserInputError, match="unknown selector 'wand'. Did you mean 'wanda'?"):
        SELECTORS["wand"]
