"""A refit that serves a few tokens of huge norms at the cost of all others is made without them."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from neuromeld.archs.spec import Space, Weight
from neuromeld.units.compensation import Consumer, ridge
from neuromeld.units.sublayer import compensate, moments, pairs_of_some
from neuromeld.units.typical import Tokens

FEATURES, WIDTH, TOKENS, BATCHES = 24, 12, 256, 8

KEPT = torch.arange(FEATURES - 4)
"""The feature that is huge is not among them."""


def features(seed: int, huge: int) -> Tensor:
    """Features of tokens, of which `huge` are large in the last one, and a little in the first."""
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(TOKENS, FEATURES, generator=draw, dtype=torch.float64)
    z[:, len(KEPT) :] += 0.5 * z[:, :4]
    z[:huge] = 0.01 * z[:huge]
    z[:huge, -1] += 3000
    z[:huge, :4] += 3
    return z


CONSUMER = Weight("down", in_=Space.FFN, out=Space.RESIDUAL)


@dataclass
class Units:
    """A matrix, and features of some batches: what `compensate` asks of a sublayer."""

    batches: list[Tensor]
    layer: int = 0
    consumer: Weight = CONSUMER
    producers: tuple[Weight, ...] = ()
    importance: Tensor | None = None
    model: nn.Module = field(default_factory=nn.Module)

    def __post_init__(self) -> None:
        self.model.down = nn.Linear(FEATURES, WIDTH, bias=False, dtype=torch.float64)
        matrix = torch.randn(WIDTH, FEATURES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.model.down.weight = nn.Parameter(matrix, requires_grad=False)

    @property
    def num_batches(self) -> int:
        return len(self.batches)

    def is_held_out(self, batch: int) -> bool:
        return batch == len(self.batches) - 1

    def features(self, batch: int) -> Tensor:
        return self.batches[batch]


def naive(units: Units):
    """The tokens, the matrix without a refit, and the refit of least squares."""
    fitted, held_out = moments(units)
    initial = units.model.down.weight.T[KEPT].clone()
    found = ridge(Consumer(fitted.narrow(KEPT), held_out.narrow(KEPT), initial, False))
    assert found.fit.fit.kept, "least squares say that it is better"
    return Tokens(units.num_batches, units.is_held_out, pairs_of_some(units, KEPT)), initial, found


def typical_error(units: Units, matrix: Tensor) -> float:
    """Of the median token of the batch that is held out."""
    z = units.features(units.num_batches - 1)
    return float((z @ units.model.down.weight.T - z[:, KEPT] @ matrix).norm(dim=1).median())


@pytest.mark.parametrize("huge", [0, 4])
def test_only_a_few_huge_tokens_harm_the_others(huge):
    units = Units([features(seed, huge) for seed in range(BATCHES)])
    tokens, initial, found = naive(units)
    assert tokens.harmed_by(found, initial) == (huge > 0)
    if huge:
        assert typical_error(units, found.fit.matrix) > 3 * typical_error(units, initial)


def test_the_refit_is_that_of_the_other_tokens():
    units = Units([features(seed, 4) for seed in range(BATCHES)])
    tokens, initial, _ = naive(units)
    fitted, held_out = tokens.usual(*initial.shape)
    assert (fitted.num_tokens, held_out.num_tokens) == ((BATCHES - 1) * (TOKENS - 4), TOKENS - 4)
    others = torch.cat([units.features(b)[4:, KEPT] for b in range(BATCHES - 1)])
    assert torch.allclose(fitted.gram, others.T @ others / len(others))


def test_compensation_does_not_harm_the_typical_token():
    units = Units([features(seed, 4) for seed in range(BATCHES)])
    _, initial, _ = naive(units)
    before, pair, whole = typical_error(units, initial), pairs_of_some(units, KEPT), units.model.down.weight
    compensate(units, "ridge", initial, *(x.narrow(KEPT) for x in moments(units)), pair)
    after, units.model.down.weight = units.model.down.weight.T.clone(), whole
    assert after.shape == initial.shape
    assert typical_error(units, after) < 1.05 * before


def test_tokens_that_were_exact_do_not_outweigh_all_others():
    """As behind a ReLU: where no removed unit is active nothing is lost, and a refit loses a little there."""
    batches = [features(seed, 0) for seed in range(BATCHES)]
    for z in batches:
        z[: TOKENS // 4, len(KEPT) :] = 0
    units = Units(batches)
    tokens, initial, found = naive(units)
    exact, wanted = units.features(BATCHES - 1)[: TOKENS // 4], units.model.down.weight.T
    assert (exact @ wanted - exact[:, KEPT] @ initial).abs().max() < 1e-12
    assert (exact @ wanted - exact[:, KEPT] @ found.fit.matrix).abs().max() > 1e-3
    assert not tokens.harmed_by(found, initial)
