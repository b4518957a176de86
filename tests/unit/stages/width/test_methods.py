"""Selectors, merges and decoders against oracles."""

import numpy as np
import pytest
import torch

from neuromeld.stages.width.decoders import DECODERS, RIDGE, Encoded
from neuromeld.stages.width.merges import MERGES, Merge, Selected
from neuromeld.stages.width.selectors import SELECTORS, Stream
from neuromeld.stats import PairwiseL1, StreamMoments

FLOAT64 = 1e-9


def activations(n: int = 400, d: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(0.5, 3, d, dtype=torch.float64)
    return torch.randn(n, d, dtype=torch.float64, generator=generator) * scales


def moments_of(x: torch.Tensor, kind: str = "rms"):
    statistic = StreamMoments(x.shape[1], centre=kind == "layer", eps=1e-6)
    statistic.update(x)
    return statistic.finalize()


def select(name: str, x: torch.Tensor, k: int, seed: int = 0):
    moments = moments_of(x)
    return SELECTORS[name](Stream(moments, moments.second_moment, seed), k)


def cost_of(x: torch.Tensor) -> torch.Tensor:
    statistic = PairwiseL1(x.shape[1])
    statistic.update(x)
    return statistic.finalize()


def test_principal_directions_are_those_of_numpy():
    x = activations()
    found = select("principal", x, 5).directions
    _, _, right = np.linalg.svd(x.numpy(), full_matrices=False)
    projection = right[:5].T @ right[:5]
    np.testing.assert_allclose((found @ found.T).numpy(), projection, atol=FLOAT64)


def test_mean_abs_activation_and_rms_take_the_largest_neurons():
    x = activations()
    assert select("mean_abs_activation", x, 4).neurons.tolist() == sorted(
        np.argsort(-np.abs(x.numpy()).mean(0))[:4].tolist()
    )
    assert select("rms", x, 4).neurons.tolist() == sorted(np.argsort(-(x.numpy() ** 2).mean(0))[:4].tolist())


def test_random_follows_its_seed():
    x = activations()
    assert select("random", x, 6, 1).neurons.tolist() == select("random", x, 6, 1).neurons.tolist()
    assert select("random", x, 6, 1).neurons.tolist() != select("random", x, 6, 2).neurons.tolist()


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_pinv_is_the_projection_onto_the_span_of_the_encoder(kind):
    x = activations()
    merge = MERGES["transport"](Selected(select("mean_abs_activation", x, 7), kind, cost_of(x), 0.1))
    width_map = DECODERS["pinv"](Encoded(merge, moments_of(x, kind).normalised_second_moment))
    oracle = merge.encode @ torch.linalg.pinv(merge.encode)
    torch.testing.assert_close(width_map.encode @ width_map.decode, oracle, rtol=1e-7, atol=1e-7)


def test_pruning_decodes_to_zero_what_it_dropped():
    x = activations()
    selection = select("mean_abs_activation", x, 7)
    width_map = DECODERS["pinv"](
        Encoded(MERGES["none"](Selected(selection, "rms")), torch.eye(12, dtype=torch.float64))
    )
    kept = torch.zeros(12, dtype=torch.float64)
    kept[selection.neurons] = 1
    torch.testing.assert_close(x @ width_map.encode @ width_map.decode, x * kept, rtol=FLOAT64, atol=FLOAT64)


def test_ridge_is_the_least_squares_reconstruction():
    x = activations() @ torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    selection = select("mean_abs_activation", x, 7)
    second_moment = x.T @ x / len(x)
    width_map = DECODERS["ridge"](Encoded(MERGES["none"](Selected(selection, "rms")), second_moment))
    kept = x[:, selection.neurons]
    damping = RIDGE * second_moment.diagonal()[selection.neurons].mean() * len(x)
    oracle = torch.linalg.solve(kept.T @ kept + damping * torch.eye(7, dtype=torch.float64), kept.T @ x)
    torch.testing.assert_close(width_map.decode, oracle, rtol=1e-7, atol=1e-7)


def test_transport_weights_average():
    x = activations()
    merge = MERGES["transport"](Selected(select("mean_abs_activation", x, 7), "rms", cost_of(x), 0.1))
    torch.testing.assert_close(merge.encode.sum(0), torch.ones(7, dtype=torch.float64), rtol=FLOAT64, atol=FLOAT64)
    torch.testing.assert_close(merge.backward.sum(0), torch.ones(12, dtype=torch.float64), rtol=FLOAT64, atol=FLOAT64)


def test_transport_merges_duplicates_without_loss():
    """Six neurons, each there twice, meet in six averages when each copy is kept once."""
    once = activations(d=6) + 5 * torch.arange(6)
    x = once.repeat(1, 2)
    selection = select("random", x, 6)
    keep_one = torch.eye(12, dtype=torch.float64)[:, :6]
    selection = type(selection)(keep_one, torch.arange(6))
    merge = MERGES["transport"](Selected(selection, "rms", cost_of(x), 0.01))
    width_map = DECODERS["pinv"](Encoded(merge, torch.eye(12, dtype=torch.float64)))
    torch.testing.assert_close(x @ width_map.encode @ width_map.decode, x, rtol=1e-6, atol=1e-6)


def test_transport_under_layernorm_keeps_one_direction_less_than_neurons():
    x = activations()
    merge = MERGES["transport"](Selected(select("mean_abs_activation", x, 7), "layer", cost_of(x), 0.1))
    assert merge.encode.shape == (12, 6)
    assert torch.linalg.matrix_rank(merge.encode) == 6
    torch.testing.assert_close(merge.encode.mean(0), torch.zeros(6, dtype=torch.float64), rtol=0, atol=FLOAT64)


def test_transport_decoder_runs_the_plan_backwards():
    merge = Merge(torch.eye(3, dtype=torch.float64)[:, :2], torch.ones(2, 3, dtype=torch.float64))
    width_map = DECODERS["transport"](Encoded(merge, torch.eye(3, dtype=torch.float64)))
    torch.testing.assert_close(width_map.decode, torch.ones(2, 3, dtype=torch.float64))
