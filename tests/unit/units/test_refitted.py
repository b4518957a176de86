"""A choice of units with the matrix that reads them refitted."""

import numpy as np
import pytest
import torch
from torch import nn

from contract.families import build
from neuromeld.archs.spec import Space, Weight
from neuromeld.model.surgery import read_matrix, write_bias, write_matrix
from neuromeld.planning.plan import architecture_of
from neuromeld.units.refitted import Choices, Read, refitted

F, D, N = 12, 5, 200


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(seed=0):
    """Features that say something of each other, `(n, f)`, with means of their own."""
    return draw(N, F, seed=seed) @ draw(F, F, seed=seed + 1) + draw(F, seed=seed + 2)


def choice(size, seed=0):
    kept = torch.rand(F // size, generator=torch.Generator().manual_seed(seed)) > 0.4
    kept[0], kept[1] = True, False
    return kept


def write(x, gram, matrix, kept, size):
    return x @ refitted(gram, matrix, kept, size).matrix


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_matrix_is_least_squares_on_the_features_that_stay(size):
    x, matrix, kept = correlated(), draw(F, D, seed=9), choice(size)
    found = refitted(x.T @ x / N, matrix, kept, size)
    stay = kept.repeat_interleave(size)
    expected = np.linalg.lstsq(x[:, stay].numpy(), (x @ matrix).numpy(), rcond=None)[0]
    np.testing.assert_allclose(found.matrix[stay], expected, atol=1e-9)
    assert not found.matrix[~stay].any()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_a_unit_changes_is_what_is_written_without_it_or_with_it(size):
    x, matrix, kept = correlated(), draw(F, D, seed=9), choice(size)
    gram = x.T @ x / N + torch.eye(F) * 0.1
    found, now = refitted(gram, matrix, kept, size), write(x, gram, matrix, kept, size)
    own = x @ found.own.T
    for unit in range(F // size):
        those = torch.arange(unit * size, (unit + 1) * size)
        changed = kept.clone()
        changed[unit] = ~changed[unit]
        sign = -1 if kept[unit] else 1
        expected = sign * (write(x, gram, matrix, changed, size) - now)
        torch.testing.assert_close(own[:, those] @ found.effect[those], expected, rtol=0, atol=1e-9)


class Reader(nn.Module):
    """What a consumer is a part of."""

    def __init__(self, matrix, bias):
        super().__init__()
        self.out = nn.Linear(F, D, bias=bias, dtype=torch.float64)
        write_matrix(self, OUT, matrix)
        if bias:
            write_bias(self, OUT, draw(D, seed=4))

    def forward(self, x):
        return self.out(x)


OUT = Weight("out", in_=Space.FFN, out=Space.RESIDUAL)


@pytest.mark.parametrize("bias", [False, True])
def test_what_is_read_has_the_gradient_of_one_unit_more_or_fewer(bias):
    x, matrix, kept = correlated(), draw(F, D, seed=9), choice(2)
    model = Reader(matrix, bias)
    mean = x.mean(0) if bias else None
    centred = x - mean if bias else x
    choices = Choices(model, {"out": Read(OUT, centred.T @ centred / N, mean, 2)}, keep=False)
    weights = draw(N, D, seed=7)

    def loss(kept):
        mask = kept.double().requires_grad_()
        with choices.made({"out": mask}):
            found = (model(x) * weights).sum()
        return found, mask

    now, mask = loss(kept)
    now.backward()
    for unit in range(F // 2):
        changed = kept.clone()
        changed[unit] = ~changed[unit]
        other = loss(changed)[0].detach()
        expected = now.detach() - other if kept[unit] else other - now.detach()
        assert float(mask.grad[unit]) == pytest.approx(float(expected), rel=1e-3, abs=1e-3)
    everything, _ = loss(torch.ones(F // 2, dtype=torch.bool))
    assert float(everything.detach()) == pytest.approx(float((model(x) * weights).sum()), rel=1e-4)


def test_a_choice_that_stays_is_refitted_once_and_the_model_comes_back():
    model = build("llama", dtype=torch.float32)
    arch = architecture_of(model)
    consumer = arch.consumer(1, Space.FFN)
    width = arch.widths[Space.FFN]
    gram = torch.eye(width)
    choices = Choices(model, {consumer.path: Read(consumer, gram, None, 1)})
    ids = torch.arange(16)[None]
    before, mask = model(input_ids=ids).logits, torch.ones(width, dtype=torch.float64)
    mask[::2] = 0
    with choices.made({consumer.path: mask}):
        first = model(input_ids=ids).logits
    held = choices._last[consumer.path][1]
    with choices.made({consumer.path: mask.clone()}):
        assert torch.equal(model(input_ids=ids).logits, first)
    assert choices._last[consumer.path][1] is held
    assert torch.equal(model(input_ids=ids).logits, before)
    matrix = read_matrix(model, consumer).clone()
    matrix[::2] = 0  # units that say nothing of each other
    write_matrix(model, consumer, matrix)
    torch.testing.assert_close(model(input_ids=ids).logits, first, rtol=1e-3, atol=1e-3)
