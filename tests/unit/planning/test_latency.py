"""A budget of time: what a clock says decides, here one that counts work; the real one is told apart from the model."""

from dataclasses import replace

import pytest
import torch

from contract.families import build
from neuromeld import Budget, parse_recipe
from neuromeld.errors import UserInputError
from neuromeld.planning import Planner
from neuromeld.planning.candidates import Candidate, SearchSpace, candidates
from neuromeld.planning.latency import MARGIN, alias_copy, sized_for_time, time_ratio
from neuromeld.planning.plan import architecture_of
from neuromeld.planning.sensitivity import fisher_scores
from unit.planning.test_planner import CALIBRATION, batches, settings

BUDGET = Budget(keep=0.8, objective="latency")


def work(model: torch.nn.Module) -> int:
    return sum(p.numel() for layer in model.model.layers for p in layer.parameters())


def choose(timer, output="auto"):
    model = build("llama-tied")
    before = {name: p.clone() for name, p in model.named_parameters()}
    choice = Planner(model, BUDGET, CALIBRATION, output, batches(), batches(8, 5), timer=timer).choose()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    return choice


@pytest.mark.parametrize("overhead", [0.0, 0.25])
def test_what_takes_at_most_the_time_and_loses_least_is_chosen(overhead):
    """A clock that charges for work and, whatever the size, for starting: sizes are found by what it says."""
    choice = choose(lambda model, original: overhead + (1 - overhead) * work(model) / work(original), "native")
    finalists = [c for c in choice.candidates if c.excess_loss is not None]
    meeting = [c for c in finalists if c.latency_ratio <= BUDGET.keep]
    assert choice.recipe == min(meeting, key=lambda c: c.excess_loss).recipe
    assert [c.chosen for c in choice.candidates].count(True) == 1
    assert all(c.latency_ratio is not None for c in choice.candidates if c.first_loss is not None)
    assert choice.warnings


@pytest.mark.parametrize("latency", [0.96, 0.85])
def test_a_candidate_is_sized_by_the_time_that_it_saved(latency):
    """Time saved goes with operations saved: more of them have to go where the first ones saved little."""
    model = build("llama")
    arch = architecture_of(model)
    budget = Budget(keep=0.9, objective="latency")
    space = SearchSpace(model, arch, budget, fisher_scores(model, arch, batches(2)), settings())
    full = Budget(flops=1.0)
    recipe = parse_recipe(settings() | {"ffn": {"size": 32}})
    way = Candidate("FFNs narrowed by layer", recipe, None)
    operations = full.share(model, recipe)
    allowed = 1 - (1 - budget.keep + MARGIN) * (1 - operations) / (1 - latency)
    found = sized_for_time(space, way, latency)
    same = next(c for c in candidates(replace(space, budget=Budget(flops=allowed))) if c.name == way.name)
    assert found == same
    assert full.share(model, found.recipe) <= allowed
    assert (allowed < operations) is (latency > 0.9)


@pytest.mark.parametrize("latency", [0.999, 1.0, 1.2])
def test_what_saves_no_time_has_no_size(latency):
    model = build("llama")
    arch = architecture_of(model)
    space = SearchSpace(
        model, arch, Budget(keep=0.9, objective="latency"), fisher_scores(model, arch, batches(2)), settings()
    )
    way = Candidate("FFNs narrowed by layer", parse_recipe(settings() | {"ffn": {"size": 32}}), None)
    assert sized_for_time(space, way, latency) is None


def test_a_clock_that_favours_dropped_layers_gets_them():
    """Time by the number of layers alone: nothing but dropping them saves any."""
    choice = choose(lambda model, original: len(model.model.layers) / len(original.model.layers), "stock")
    assert choice.recipe.drop_layers is not None


def test_nothing_saves_time():
    with pytest.raises(UserInputError, match="nothing that was built takes at most 0.8 of the time"):
        choose(lambda *_: 1.05)


def test_no_clock_is_asked_for_other_objectives():
    def timer(*_):
        raise AssertionError

    budget = Budget(keep=0.8, objective="flops")
    choice = Planner(build("llama"), budget, CALIBRATION, "auto", batches(), batches(8, 5), timer=timer).choose()
    assert not choice.warnings
    assert all(c.flops_ratio <= 0.8 and c.latency_ratio is None for c in choice.candidates)


@pytest.mark.parametrize("family", ["llama-tied", "gpt2"])
def test_the_clock_runs_both_models_on_their_cache(family):
    model = build(family)
    twin = alias_copy(model)
    assert [id(p) for p in twin.parameters()] == [id(p) for p in model.parameters()]
    assert not {id(m) for m in twin.modules()} & {id(m) for m in model.modules()}
    assert time_ratio(model, twin) > 0
