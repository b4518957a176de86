"""The refit of the output matrix against least squares on the same tokens."""

import pytest
import torch

from contract.families import build
from neuromeld import make_plan, parse_recipe
from neuromeld.archs.spec import Space
from neuromeld.errors import UnsupportedModelError
from neuromeld.model.surgery import read_bias, read_matrix
from neuromeld.planning.plan import architecture_of, meta_model
from neuromeld.stats.split import is_held_out
from unit.stages.models import batches
from unit.units.models import EXACT, calls, narrow, one_layer

NUM = len(batches())
FITTED = [b for b in range(NUM) if not is_held_out(b, NUM)]
HELD_OUT = [b for b in range(NUM) if is_held_out(b, NUM)]
CASES = [("llama", "ffn"), ("llama", "heads"), ("llama-biased", "ffn"), ("qwen3", "heads"), ("gpt2", "ffn")]


def narrowed(family, space, **options):
    """A model, the same with one space of the first layer narrowed, the architecture, and what was done.

    No other layer changes what the first one reads.
    """
    dense, model = build(family), build(family)
    arch = architecture_of(dense)
    sizes = {"ffn": one_layer(arch, 0, 20)} if space == "ffn" else {"groups": [1, 2, 2, 2]}
    (entry,) = narrow(model, **sizes, **options)
    return dense, model, arch, entry


def kept_channels(arch, entry, space):
    if space == "ffn":
        return list(entry.kept)
    size = arch.widths[Space.HEADS] // entry.before
    return [c for group in entry.kept for c in range(group * size, (group + 1) * size)]


def least_squares(z, y, initial, ridge, intercept):
    """`argmin |y - z M - c|^2 / n + ridge |M - initial|^2`, by one QR of the stacked system; `c` is not penalised."""
    n, k = z.shape
    eye = torch.eye(k, dtype=z.dtype)
    top, bottom = z / n**0.5, ridge**0.5 * eye
    if intercept:
        top = torch.cat([top, torch.full((n, 1), n**-0.5, dtype=z.dtype)], dim=1)
        bottom = torch.cat([bottom, torch.zeros(k, 1, dtype=z.dtype)], dim=1)
    found = torch.linalg.lstsq(torch.cat([top, bottom]), torch.cat([y / n**0.5, ridge**0.5 * initial])).solution
    return found[:k], found[k] if intercept else None


@pytest.mark.parametrize(("family", "space"), CASES)
def test_ridge_is_the_least_squares_of_the_fitted_batches(family, space):
    dense, model, arch, entry = narrowed(family, space)
    weight = arch.consumer(0, space)
    matrix, bias = read_matrix(dense, weight), read_bias(dense, weight)
    kept = kept_channels(arch, entry, space)
    pairs = calls(dense, weight.path)
    z, y = (torch.cat([pairs[b][i] for b in FITTED]) for i in (0, 1))
    z = z[:, kept]
    spread = z if bias is None else z - z.mean(0)
    assert entry.fit.ridge is not None
    ridge = entry.fit.ridge * float(spread.square().mean())
    expected, constant = least_squares(z, y, matrix[kept], ridge, bias is not None)
    torch.testing.assert_close(read_matrix(model, weight), expected, rtol=1e-7, atol=1e-9)
    if bias is not None:
        torch.testing.assert_close(read_bias(model, weight), constant, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("family", "space"), CASES)
def test_errors_are_those_of_the_model_on_held_out_tokens_and_ridge_never_raises_them(family, space):
    errors = []
    for compensate in ("none", "ridge"):
        dense, model, arch, entry = narrowed(family, space, compensate=compensate)
        weight = arch.consumer(0, space)
        bias = read_bias(dense, weight)
        pairs = [
            (y, found) for (_, y), (_, found) in zip(*(calls(m, weight.path) for m in (dense, model)), strict=True)
        ]
        expected, found = (torch.cat([pairs[b][i] for b in HELD_OUT]) for i in (0, 1))
        offset = 0 if bias is None else bias
        if compensate == "ridge" and bias is not None:  # what a constant explains does not count
            offset = torch.cat([pairs[b][0] for b in FITTED]).mean(0)
        error = (expected - found).square().sum() / (expected - offset).square().sum()
        assert entry.fit.error_after == pytest.approx(float(error), rel=EXACT)
        errors.append(float((expected - found).square().sum()))
        assert (entry.fit.error_after < entry.fit.error_before) is (compensate == "ridge")
    assert errors[1] < errors[0]


@pytest.mark.parametrize(("family", "space"), [("llama-biased", "ffn"), ("llama-biased", "heads"), ("gpt2", "ffn")])
def test_bias_makes_the_mean_error_of_the_output_zero(family, space):
    dense, model, arch, entry = narrowed(family, space, compensate="bias")
    weight = arch.consumer(0, space)
    kept = kept_channels(arch, entry, space)
    assert torch.equal(read_matrix(model, weight), read_matrix(dense, weight)[kept])
    expected, found = (
        torch.cat([written for b, (_, written) in enumerate(calls(m, weight.path)) if b in FITTED]).mean(0)
        for m in (dense, model)
    )
    torch.testing.assert_close(found, expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize(("family", "space"), [("llama", "ffn"), ("qwen2", "heads")])
def test_bias_is_refused_where_there_is_none(family, space):
    """By the plan, before anything is changed; Qwen2's attention has biases, but not behind it."""
    model = build(family)
    before = {name: p.clone() for name, p in model.named_parameters()}
    path = architecture_of(model).consumer(0, space).path
    recipe = parse_recipe({space: {"ffn": {"size": 20}, "heads": {"num_kv_heads": 1}}[space] | {"compensate": "bias"}})
    for planned in (model, meta_model(model.config)):
        with pytest.raises(UnsupportedModelError, match=f"compensate=bias: {path} has no bias; use ridge or none"):
            make_plan(planned, recipe)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
