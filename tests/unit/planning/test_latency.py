"""A budget of time: what a clock says decides, here one that counts work; the real one is told apart from the model."""

import copy
import random
from dataclasses import replace

import pytest
import torch

from contract.families import build, tokens
from neuromeld import Budget, compress_model, make_plan, parse_recipe
from neuromeld.archs.sizes import sizes_of
from neuromeld.errors import UserInputError
from neuromeld.planning import Planner
from neuromeld.planning.latency import alias_copy, measured_times, time_ratio
from neuromeld.planning.plan import architecture_of
from unit.planning.test_planner import CALIBRATION, batches, settings

BUDGET = Budget(keep=0.8, objective="latency")


def work(model: torch.nn.Module) -> int:
    inner = getattr(model.model, "decoder", model.model)
    return sum(p.numel() for layer in inner.layers for p in layer.parameters() if p.ndim == 2)


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
    assert all(c.latency_ratio is not None for c in finalists)
    assert choice.warnings


def by_work(model, original):
    """Time that goes with the entries of the layers: what each saves adds up."""
    return work(model) / work(original)


def made(model, recipe):
    small = copy.deepcopy(model)
    compress_model(small, make_plan(small, recipe), [{"input_ids": tokens(8, seed=3)}] * 2)
    return small


def table(model, timer):
    arch, original, names = architecture_of(model), alias_copy(model), []

    def timed(name, recipe):
        names.append(name)
        return timer(made(model, recipe), original)

    found = measured_times(model, arch, lambda **stages: parse_recipe(settings("native") | stages), None, timed)
    return found, names


@pytest.mark.parametrize("family", ["llama-tied", "opt"])
def test_what_adds_up_is_told_of_any_sizes(family):
    """Few sizes are timed, each of all layers alike; widths by layer are told exactly."""
    model = build(family)
    times, names = table(model, by_work)
    assert 4 < len(names) < 12
    before = times.before
    layers = before.num_layers
    ffn = tuple(max(1, size * (layer + 1) // layers) for layer, size in enumerate(before.ffn))
    recipe = parse_recipe(settings("native") | {"ffn": {"size": list(ffn)}})
    small = made(model, recipe)
    assert times.ratio(replace(before, ffn=ffn)) == pytest.approx(by_work(small, model), abs=1e-9)


def test_a_size_that_saves_nothing_less_than_a_larger_one_is_told():
    """A noisy clock: never is more told of a smaller size."""
    model = build("llama-tied")
    draw = random.Random(0)
    times, _ = table(model, lambda small, original: by_work(small, original) + draw.uniform(-0.1, 0.1))
    full = times.before.ffn[0]
    told = [times.ratio(replace(times.before, ffn=(size,) * len(times.before.ffn))) for size in range(1, full + 1)]
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_table_is_held_to_what_was_timed():
    model = build("llama-tied")
    times, _ = table(model, by_work)
    sizes = replace(times.before, ffn=tuple(size // 2 for size in times.before.ffn))
    assert times.held_to(sizes, 0.9).ratio(sizes) == pytest.approx(0.9)
    assert times.held_to(sizes, 0.9).ratio(times.before) == 1.0
    assert times.held_to(sizes, 1.1) == times


def test_a_clock_is_asked_of_few_sizes_once_for_all_candidates_and_budgets():
    asked = []

    def timer(model, original):
        asked.append(sizes_of(architecture_of(model), model.config))
        return by_work(model, original)

    model = build("llama-tied")
    data, text = batches(), batches(8, 5)
    planner = Planner(model, BUDGET, CALIBRATION, "native", data, text, timer=timer)
    choice = planner.choose()
    first, timed = len(asked), [c for c in choice.candidates if c.latency_ratio is not None]
    assert len(timed) < len([c for c in choice.candidates if c.first_loss is not None])
    further = replace(planner, budget=Budget(keep=0.7, objective="latency"), original=None)
    chosen = further.choose().chosen
    assert chosen.latency_ratio <= 0.7
    assert len(asked) - first <= 2


def test_what_takes_longer_than_told_is_made_smaller_once():
    """Widths by layer save half of what widths alike do: finalists are sized again by what they took."""

    def timer(model, original):
        saved = 1 - by_work(model, original)
        alike = len({layer.mlp.down_proj.in_features for layer in model.model.layers}) == 1
        return 1 - saved * (1 if alike else 0.5)

    choice = choose(timer, "native")
    assert choice.chosen.latency_ratio <= BUDGET.keep


def test_a_clock_that_favours_dropped_layers_gets_them():
    """Time by the number of layers alone: nothing but dropping them saves any."""
    choice = choose(lambda model, original: len(model.model.layers) / len(original.model.layers), "stock")
    assert choice.recipe.drop_layers is not None


def test_nothing_saves_time():
    with pytest.raises(UserInputError, match=r"meets this budget \(times of sizes, .*: 1.000, a layer less: 1.000\)"):
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
