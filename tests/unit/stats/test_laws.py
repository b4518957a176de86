"""What every statistic must satisfy."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from neuromeld.errors import NumericsError, UserInputError
from neuromeld.stats import CrossMoments, PairMoments, PairwiseL1, Statistic, StreamMoments
from neuromeld.stats.base import TOKENS_PER_BLOCK

D, K = 6, 4
NUM_TOKENS = 40
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6}

STATISTICS: dict[str, tuple[Callable[[], Statistic], int]] = {
    "rms-moments": (lambda: StreamMoments(D, centre=False, eps=1e-6), 1),
    "layer-moments": (lambda: StreamMoments(D, centre=True, eps=1e-5), 1),
    "pairwise": (lambda: PairwiseL1(D), 1),
    "cross": (lambda: CrossMoments(D, K), 2),
    "pair": (lambda: PairMoments(D, K), 2),
}
every_statistic = pytest.mark.parametrize("name", STATISTICS)


def activations(num_tensors: int, n: int = NUM_TOKENS, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(n, width, dtype=dtype, generator=generator) for width in (D, K)[:num_tensors]]


def after(name: str, *batches: list[Tensor]) -> Statistic:
    make, _ = STATISTICS[name]
    statistic = make()
    for batch in batches:
        statistic.update(*batch)
    return statistic


def assert_same(actual: Statistic, expected: Statistic, dtype: torch.dtype = torch.float64) -> None:
    torch.testing.assert_close(actual.state(), expected.state(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@every_statistic
@settings(max_examples=15, deadline=None)
@given(cut=st.integers(0, NUM_TOKENS))
def test_merging_equals_one_pass(name: str, cut: int) -> None:
    whole = activations(STATISTICS[name][1])
    first = after(name, [tensor[:cut] for tensor in whole])
    second = after(name, [tensor[cut:] for tensor in whole])
    in_two_updates = after(name, [tensor[:cut] for tensor in whole], [tensor[cut:] for tensor in whole])
    first.merge(second)
    assert first.num_tokens == NUM_TOKENS
    assert_same(first, after(name, whole))
    assert_same(in_two_updates, after(name, whole))


@every_statistic
def test_states_add_up(name: str) -> None:
    """What a sum over ranks does."""
    whole = activations(STATISTICS[name][1])
    one, two = (after(name, [tensor[part] for tensor in whole]) for part in (slice(0, 15), slice(15, None)))
    reduced = STATISTICS[name][0]()
    reduced.load_state({part: value + two.state()[part] for part, value in one.state().items()})
    assert_same(reduced, after(name, whole))


@every_statistic
def test_all_tokens_of_many_blocks_count_once(name: str) -> None:
    whole = activations(STATISTICS[name][1], n=2 * TOKENS_PER_BLOCK + 7)
    one_at_a_time = after(name, *([tensor[i : i + 100] for tensor in whole] for i in range(0, len(whole[0]), 100)))
    assert after(name, whole).num_tokens == 2 * TOKENS_PER_BLOCK + 7
    assert_same(after(name, whole), one_at_a_time)


@every_statistic
def test_sums_are_float64_and_near_exact_for_float32_activations(name: str) -> None:
    whole = activations(STATISTICS[name][1], dtype=torch.float32)
    statistic = after(name, whole)
    assert {value.dtype for value in statistic.state().values()} == {torch.float64}
    assert_same(statistic, after(name, [tensor.double() for tensor in whole]), torch.float32)


@every_statistic
def test_half_precision_is_widened_before_summing(name: str) -> None:
    whole = activations(STATISTICS[name][1], dtype=torch.bfloat16)
    assert_same(after(name, whole), after(name, [tensor.double() for tensor in whole]), torch.float32)


@every_statistic
def test_resuming_from_a_state_leaves_the_state_alone(name: str) -> None:
    whole = activations(STATISTICS[name][1])
    state = after(name, whole).state()
    before = {part: value.clone() for part, value in state.items()}
    resumed = STATISTICS[name][0]()
    resumed.update(*whole)
    resumed.load_state(state)
    resumed.update(*whole)
    assert_same(resumed, after(name, whole, whole))
    torch.testing.assert_close(state, before, rtol=0, atol=0)


@every_statistic
def test_no_graph_is_kept(name: str) -> None:
    statistic = after(name, [tensor.requires_grad_() for tensor in activations(STATISTICS[name][1])])
    assert not any(value.requires_grad for value in statistic.state().values())


@every_statistic
def test_refuses_to_finalize_without_tokens(name: str) -> None:
    with pytest.raises(UserInputError, match="no tokens"):
        STATISTICS[name][0]().finalize()  # type: ignore[attr-defined]


@every_statistic
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_finalize_names_the_sums_that_are_not_finite(name: str, value: float) -> None:
    whole = activations(STATISTICS[name][1])
    whole[0][3, 2] = value
    statistic = after(name, whole)
    with pytest.raises(NumericsError, match=r"not finite after 40 tokens") as caught:
        statistic.finalize()  # type: ignore[attr-defined]
    broken = {part for part, total in statistic.state().items() if not bool(total.isfinite().all())}
    assert all(part in str(caught.value) for part in broken)
    assert "target_energy" not in str(caught.value)


def test_refuses_to_merge_different_settings() -> None:
    with pytest.raises(UserInputError, match="cannot merge"):
        StreamMoments(D, centre=True, eps=1e-6).merge(StreamMoments(D, centre=False, eps=1e-6))


def test_refuses_to_merge_different_statistics() -> None:
    class Other(PairwiseL1):
        """The same settings and sums, with another meaning."""

    with pytest.raises(UserInputError, match="cannot merge Other"):
        PairwiseL1(D).merge(Other(D))


def test_refuses_the_state_of_another_statistic() -> None:
    with pytest.raises(UserInputError, match="another statistic"):
        PairwiseL1(D).load_state(PairwiseL1(D + 1).state())


@pytest.mark.parametrize(("n_in", "n_out"), [(10, 9), (2 * TOKENS_PER_BLOCK, TOKENS_PER_BLOCK)])
def test_refuses_tensors_of_different_lengths(n_in: int, n_out: int) -> None:
    """By the shape annotations where a type checker reads them, else by torch or zip."""
    with pytest.raises((ValueError, RuntimeError, TypeCheckError)):
        CrossMoments(D, K).update(torch.zeros(n_in, D), torch.zeros(n_out, K))
