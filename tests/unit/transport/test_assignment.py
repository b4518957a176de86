import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from neuromeld.errors import NumericsError, UserInputError
from neuromeld.transport import assign


@given(f=st.integers(1, 5), seed=st.integers(0, 999))
def test_equals_brute_force(f: int, seed: int) -> None:
    similarity = torch.randn(f, f, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rows = torch.arange(f)
    best = max(permutations(range(f)), key=lambda order: float(similarity[rows, torch.tensor(order)].sum()))
    assert assign(similarity).tolist() == list(best)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recovers_a_permutation_of_the_features(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    anchor = torch.randn(200, 30, generator=generator)
    member = anchor[:, torch.randperm(30, generator=generator)]
    pi = assign((anchor.T @ member).to(dtype))
    assert pi.dtype == torch.int64
    assert torch.equal(member[:, pi], anchor)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_refuses_a_similarity_that_is_not_finite(value: float) -> None:
    similarity = torch.eye(3)
    similarity[0, 1] = value
    with pytest.raises(NumericsError, match="NaN or infinite"):
        assign(similarity)


def test_refuses_a_rectangle() -> None:
    """By the shape annotation where a type checker reads it, else by our own check."""
    with pytest.raises((UserInputError, TypeCheckError), match=r"\(2, 3\)|parameter 'similarity'"):
        assign(torch.zeros(2, 3))
