"""Laws of the width map: what makes every method exact under the norms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromeld.errors import NumericsError
from neuromeld.stages.width.width_map import Basis, WidthMap, basis_of, centred, map_rank, rotate, shortcut

FLOAT64 = 1e-9
KINDS = st.sampled_from(["rms", "layer"])


def norm(x: torch.Tensor, kind: str, eps: float = 1e-5) -> torch.Tensor:
    x = x - x.mean(-1, keepdim=True) if kind == "layer" else x
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def random_map(d: int, k: int, kind: str, seed: int) -> WidthMap:
    """Any full-rank pair; under LayerNorm a map of the centred stream."""
    generator = torch.Generator().manual_seed(seed)
    rank = map_rank(k, kind)
    encode = torch.randn(d, rank, dtype=torch.float64, generator=generator)
    decode = torch.randn(rank, d, dtype=torch.float64, generator=generator)
    return WidthMap(centred(encode, kind), centred(decode.T, kind).T)


def invertible_map(d: int, kind: str, seed: int) -> WidthMap:
    encode = random_map(d, d, kind, seed).encode
    return WidthMap(encode, torch.linalg.pinv(encode))


def stream(d: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(11, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 1


@settings(deadline=None)
@given(d=st.integers(3, 24), data=st.data(), kind=KINDS, seed=st.integers(0, 9999))
def test_stock_norm_of_narrow_stream_is_norm_of_reconstruction(d, data, kind, seed):
    k = data.draw(st.integers(2, d))
    width_map = random_map(d, k, kind, seed)
    basis = basis_of(width_map, kind)
    x = stream(d, seed)
    reconstruction = centred(x.T, kind).T @ width_map.encode @ width_map.decode
    narrow = x @ basis.write
    torch.testing.assert_close(norm(narrow, kind) @ basis.read, norm(reconstruction, kind), rtol=FLOAT64, atol=FLOAT64)


@settings(deadline=None)
@given(d=st.integers(2, 24), kind=KINDS, seed=st.integers(0, 9999))
def test_any_invertible_map_of_full_width_loses_nothing(d, kind, seed):
    basis = basis_of(invertible_map(d, kind, seed), kind)
    x = stream(d, seed)
    torch.testing.assert_close(norm(x @ basis.write, kind) @ basis.read, norm(x, kind), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(basis.write @ basis.read, torch.eye(d, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(d=st.integers(3, 16), kind=KINDS, seed=st.integers(0, 9999))
def test_read_rows_are_orthogonal_of_one_length(d, kind, seed):
    basis = basis_of(random_map(d, d - 1, kind, seed), kind)
    gram = basis.read @ basis.read.T
    expected = torch.eye(d - 1, dtype=torch.float64) * d / (d - 1)
    torch.testing.assert_close(gram, expected, rtol=FLOAT64, atol=FLOAT64)


@settings(deadline=None)
@given(d=st.integers(3, 16), seed=st.integers(0, 9999))
def test_narrow_layernorm_subtracts_the_mean_of_the_original_stream(d, seed):
    basis = basis_of(random_map(d, d - 1, "layer", seed), "layer")
    x = stream(d, seed)
    torch.testing.assert_close((x @ basis.write).mean(1), x.mean(1), rtol=FLOAT64, atol=FLOAT64)


@settings(deadline=None)
@given(d=st.integers(3, 16), kind=KINDS, seed=st.integers(0, 9999))
def test_shortcut_within_one_left_invertible_map_is_the_identity(d, kind, seed):
    encode = random_map(d, d - 1, kind, seed).encode
    basis = basis_of(WidthMap(encode, torch.linalg.pinv(encode)), kind)
    torch.testing.assert_close(shortcut(basis, basis), torch.eye(d - 1, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(d=st.integers(4, 16), kind=KINDS, seed=st.integers(0, 9999))
def test_shortcut_decodes_and_encodes_again(d, kind, seed):
    before = basis_of(random_map(d, d - 2, kind, seed), kind)
    after = basis_of(random_map(d, d - 1, kind, seed + 1), kind)
    x = stream(d, seed) @ before.write
    torch.testing.assert_close(x @ shortcut(before, after), x @ before.read @ after.write, rtol=1e-7, atol=1e-7)


@settings(deadline=None)
@given(d=st.integers(3, 16), seed=st.integers(0, 9999))
def test_rotation_leaves_an_rms_map_as_it_was(d, seed):
    basis = basis_of(random_map(d, d - 1, "rms", seed), "rms")
    rotation, _ = torch.linalg.qr(torch.randn(d - 1, d - 1, dtype=torch.float64))
    turned = rotate(basis, rotation)
    x = stream(d, seed)
    torch.testing.assert_close(
        norm(x @ turned.write, "rms") @ turned.read, norm(x @ basis.write, "rms") @ basis.read, rtol=1e-8, atol=1e-8
    )


@settings(deadline=None)
@given(k=st.integers(2, 8), copies=st.integers(1, 3), seed=st.integers(0, 9999))
def test_duplicated_neurons_merge_without_loss(k, copies, seed):
    """A stream of `k` neurons, each there `copies` times, is carried by `k` averages."""
    x = stream(k, seed)
    wide = x.repeat(1, copies)
    encode = torch.eye(k, dtype=torch.float64).repeat(copies, 1) / copies
    width_map = WidthMap(encode, torch.linalg.pinv(encode))
    torch.testing.assert_close(wide @ width_map.encode @ width_map.decode, wide, rtol=FLOAT64, atol=FLOAT64)
    basis = basis_of(width_map, "rms")
    torch.testing.assert_close(norm(wide @ basis.write, "rms") @ basis.read, norm(wide, "rms"), rtol=1e-7, atol=1e-7)


def test_stream_keeps_its_root_mean_square():
    """The scale `sqrt(k/d)` is what lets a stock norm keep its epsilon."""
    basis = basis_of(WidthMap(torch.eye(9, dtype=torch.float64)[:, :4], torch.eye(9, dtype=torch.float64)[:4]), "rms")
    x = stream(9, 0) * torch.tensor([1.0] * 4 + [0.0] * 5, dtype=torch.float64)
    assert math.isclose((x @ basis.write).square().mean(), x.square().mean(), rel_tol=FLOAT64)


def test_a_map_that_is_not_finite_is_refused():
    bad = torch.full((2, 3), math.nan, dtype=torch.float64)
    with pytest.raises(NumericsError, match="not finite"):
        basis_of(WidthMap(torch.eye(3, dtype=torch.float64)[:, :2], bad), "rms")


def test_basis_states_its_width():
    assert Basis(torch.zeros(5, 3), torch.zeros(3, 5)).width == 3
