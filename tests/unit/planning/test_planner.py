"""Sensitivities against explicit masks, allocation by its definition, candidates against the budget they must meet."""

import math
from dataclasses import replace
from functools import cache
from urllib.parse import unquote

import pytest
import torch
from scipy import stats

from contract.families import build, tokens
from neuromeld import Budget, Calibration, compress_model, make_plan, parse_recipe
from neuromeld.archs.spec import Space
from neuromeld.errors import UserInputError
from neuromeld.evaluation import unique_parameters
from neuromeld.planning import Choice, Planner
from neuromeld.planning.allocate import CHUNK, Allocation, neuron_costs
from neuromeld.planning.built import BuiltCandidate, simplest_of_the_best, standard_error
from neuromeld.planning.candidates import SearchSpace, candidates
from neuromeld.planning.effort import EFFORTS
from neuromeld.planning.plan import architecture_of
from neuromeld.planning.sensitivity import fisher_scores
from neuromeld.planning.shared import Shared
from neuromeld.runtime.journal import open_journal
from neuromeld.runtime.phases import Phases
from neuromeld.stages.ffn.stage import FfnStage

CALIBRATION = Calibration(tokens=1536, seqlen=16)


def batches(num: int = 16, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": ids} for ids in tokens(num, seed=seed).split(4)]


def settings(output: str = "auto") -> dict[str, object]:
    return {"calibration": CALIBRATION.model_dump(), "output": output}


@pytest.mark.parametrize("family", ["llama-tied", "opt", "gpt2", "bloom"])
@pytest.mark.parametrize("space", ["ffn", "heads", "layer"])
def test_information_is_the_square_of_the_derivative_by_a_mask(family, space):
    model = build(family)
    arch = architecture_of(model)
    data = batches(2)
    found = fisher_scores(model, arch, data)
    layer, ids = 1, data[0]["input_ids"]
    path = arch.layer_path(layer) if space == "layer" else arch.consumer(layer, space).path
    width = 1 if space == "layer" else arch.widths[space]
    mask = torch.ones(*ids.shape, width, dtype=torch.float64, requires_grad=True)

    def before(_, args):
        return (args[0] * mask.view(*args[0].shape[:-1], width), *args[1:])

    def after(_, args, output):
        left = output[0] if isinstance(output, tuple) else output
        masked = args[0] + (left - args[0]) * mask
        return (masked, *output[1:]) if isinstance(output, tuple) else masked

    module = model.get_submodule(path)
    module.register_forward_hook(after) if space == "layer" else module.register_forward_pre_hook(before)
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="sum").backward()
    expected = mask.grad.square().flatten(0, 1).sum(0) / 2 / ids[:, 1:].numel()
    actual = {"ffn": found.ffn, "heads": found.heads, "layer": torch.tensor(found.layers)}[space][layer]
    torch.testing.assert_close(actual.flatten().double(), expected, rtol=1e-5, atol=1e-12)


def test_information_leaves_the_model_alone():
    model = build("llama")
    model.requires_grad_(True)
    fisher_scores(model, architecture_of(model), batches(1))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_layers_that_are_run_again_have_the_same_information():
    model = build("llama")
    arch = architecture_of(model)
    plain, light = (fisher_scores(model, arch, batches(2), light=light) for light in (False, True))
    assert light.layers == plain.layers
    for space in ("ffn", "heads"):
        assert all(map(torch.equal, getattr(light, space), getattr(plain, space)))


def test_padding_carries_no_information():
    model = build("llama")
    arch = architecture_of(model)
    ids = tokens(4)
    padded = torch.cat([torch.full_like(ids[:, :3], 7), ids], dim=1)
    mask = torch.ones_like(padded)
    mask[:, :3] = 0
    plain = fisher_scores(model, arch, [{"input_ids": ids}])
    found = fisher_scores(model, arch, [{"input_ids": padded, "attention_mask": mask}])
    torch.testing.assert_close(found.layers, plain.layers, rtol=1e-4, atol=0)


def test_costs_are_those_of_the_plan():
    model = build("llama")
    arch = architecture_of(model)
    per_neuron, per_layer = neuron_costs(arch)
    field = SearchSpace(model, arch, Budget(keep=0.9), None, settings())
    full = make_plan(model, field.recipe(ffn={"size": 40}, heads={"num_kv_heads": 2}))
    less = make_plan(model, field.recipe(ffn={"size": 39}, heads={"num_kv_heads": 1}))
    assert full.parameters_after - less.parameters_after == 4 * (per_neuron + per_layer // 2)


def test_allocation_keeps_what_is_worth_its_price():
    model = build("llama")
    arch = architecture_of(model)
    generator = torch.Generator().manual_seed(0)
    ffn = [torch.rand(40, generator=generator, dtype=torch.float64) * 2**-layer for layer in range(4)]
    heads = [torch.rand(24, generator=generator, dtype=torch.float64) * 2**-layer for layer in range(4)]
    nothing = Allocation(arch, ffn, heads, 2).at(0.0)
    assert nothing.ffn == (40,) * 4
    assert nothing.num_kv_heads == (2,) * 4
    assert nothing.lost == 0
    everything = Allocation(arch, ffn, heads, 2).at(math.inf)
    assert everything.ffn == (CHUNK,) * 4
    assert everything.num_kv_heads == (1,) * 4
    some = Allocation(arch, ffn, heads, 2).at(0.3 / neuron_costs(arch)[0])
    assert list(some.ffn) == sorted(some.ffn, reverse=True)
    lost = sum(float(s.sort().values[: 40 - width].sum()) for s, width in zip(ffn, some.ffn, strict=True))
    lost += sum(
        float(s.view(2, -1).sum(1).min()) for s, groups in zip(heads, some.num_kv_heads, strict=True) if groups == 1
    )
    assert math.isclose(some.lost, lost)


@pytest.mark.parametrize("family", ["llama-tied", "qwen3", "opt", "gpt2", "bloom"])
@pytest.mark.parametrize("budget", [Budget(keep=0.85), Budget(flops=0.97)])
def test_every_candidate_just_meets_the_budget(family, budget):
    model = build(family)
    arch = architecture_of(model)
    ways = candidates(SearchSpace(model, arch, budget, fisher_scores(model, arch, batches(2)), settings("native")))
    assert len({way.name for way in ways}) == len(ways) >= 3
    for way in ways:
        assert budget.share(model, way.recipe) <= 1
        ffn = way.recipe.ffn
        if ffn is not None and isinstance(ffn.size, int) and ffn.size + 8 <= arch.widths[Space.FFN]:
            wider = way.recipe.model_copy(update={"ffn": ffn.model_copy(update={"size": ffn.size + 8})})
            assert budget.share(model, wider) > 1


def test_fewer_experts_and_narrower_ones_are_candidates_for_a_mixture():
    """Nothing is predicted of neurons of experts: they have no scores."""
    model = build("mixtral", dtype=torch.float32)
    arch, budget = architecture_of(model), Budget(keep=0.75)
    ways = candidates(SearchSpace(model, arch, budget, fisher_scores(model, arch, batches(2)), settings("native")))
    found = {way.name: way for way in ways}
    assert found["fewer experts"].recipe.experts.count == 2
    assert found["narrower FFNs"].predicted is None
    assert not any("by layer" in name for name in found)
    assert all(budget.share(model, way.recipe) <= 1 for way in ways)


def test_the_ffns_that_are_merged_are_those_in_a_row_that_carry_least():
    model = build("llama-tied")
    arch = architecture_of(model)
    found = fisher_scores(model, arch, batches(2))
    ways = {way.name: way for way in candidates(SearchSpace(model, arch, Budget(keep=0.85), found, settings("native")))}
    merged = ways["2 FFNs merged, narrower FFNs"]
    carried = [float(scores.sum()) for scores in found.ffn]
    pairs = [carried[first] + carried[first + 1] for first in range(arch.num_layers - 1)]
    first = pairs.index(min(pairs))
    assert merged.recipe.share_ffns is not None
    assert merged.recipe.share_ffns.window == (first, first + 1)
    assert merged.predicted >= min(carried[first : first + 2])


def test_stock_candidates_are_stock():
    model = build("llama-tied")
    arch = architecture_of(model)
    field = SearchSpace(model, arch, Budget(keep=0.8), fisher_scores(model, arch, batches(2)), settings("stock"))
    for way in candidates(field):
        assert make_plan(model, way.recipe).format == "stock"


def test_the_best_measured_candidate_is_chosen_and_the_model_is_left_as_it_was():
    model = build("llama-tied")
    before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    config = model.config.to_dict()
    choices = [
        Planner(model, Budget(keep=0.8), CALIBRATION, "auto", batches(), batches(8, 5)).choose() for _ in range(2)
    ]
    choice = choices[0]
    least = min(c.excess_loss for c in choice.candidates if c.excess_loss is not None)
    chosen = next(c for c in choice.candidates if c.chosen)
    assert choice.recipe == chosen.recipe
    assert chosen.excess_loss <= least + chosen.uncertainty
    assert [c.chosen for c in choice.candidates].count(True) == 1
    assert choice.record() == choices[1].record()
    assert model.config.to_dict() == config
    assert {name: id(p) for name, p in model.named_parameters()} == {name: key for name, (key, _) in before.items()}
    assert all(torch.equal(p, before[name][1]) for name, p in model.named_parameters())


class Ruin:
    """Trains nothing, and ruins the model that has so many parameters."""

    tokens = 2048

    def __init__(self, parameters: int = 0) -> None:
        self.parameters, self.seen = parameters, 0

    @torch.no_grad()
    def __call__(self, model, original):
        assert original.num_parameters() > model.num_parameters()
        self.seen += 1
        if unique_parameters(model) == self.parameters:
            model.model.norm.weight.mul_(10)


def test_finalists_are_compared_by_what_they_lose_after_a_training():
    model = build("llama-tied")
    before = {name: p.clone() for name, p in model.named_parameters()}

    def chosen(tune=None):
        return Planner(model, Budget(keep=0.8), CALIBRATION, "native", batches(), batches(8, 5), tune=tune).choose()

    plain, same = chosen(), chosen(nothing := Ruin())
    finalists = [c for c in same.candidates if c.excess_loss is not None]
    assert nothing.seen == len(finalists) > 1
    assert [c.tuned_loss for c in finalists] == [c.excess_loss for c in finalists]
    assert same.recipe == plain.recipe
    assert all(c.tuned_loss is None for c in plain.candidates)
    other = chosen(Ruin(make_plan(model, plain.recipe).parameters_after))
    worse = [c for c in other.candidates if c.tuned_loss is not None and c.tuned_loss != c.excess_loss]
    assert plain.chosen.name in {c.name for c in worse}
    assert other.chosen not in worse
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


STREAMS = ("narrower residual stream", "residual stream 5 % narrower, narrower FFNs")


@cache
def chosen_with(effort: str) -> Choice:
    model = build("llama-tied")
    planner = Planner(model, Budget(keep=0.8), CALIBRATION, "auto", batches(), batches(8, 5), effort=EFFORTS[effort])
    return planner.choose()


def test_little_effort_builds_few_candidates_and_one_twice():
    quick, standard = chosen_with("quick"), chosen_with("standard")
    built = [sum(c.first_loss is not None for c in choice.candidates) for choice in (quick, standard)]
    assert 0 < built[0] < built[1]
    streams = [
        [c for c in choice.candidates if c.name in STREAMS and c.first_loss is not None] for choice in (quick, standard)
    ]
    assert [len(found) for found in streams] == [0, 2]
    assert [c.chosen for c in quick.candidates if c.excess_loss is not None] == [True]


def test_the_best_of_much_effort_is_built_with_learned_units_too():
    choice = chosen_with("best")
    learned = [c for c in choice.candidates if c.name.endswith(", learned")]
    streams = [c for c in learned if c.recipe.width is not None and c.recipe.width.selector == "learned"]
    assert (len(learned), len(streams)) == (4, 2)
    finished = {c.name: c.excess_loss for c in choice.candidates if c.excess_loss is not None}
    for one in learned:
        assert one.recipe.ffn.selector == "learned"
        assert one.kept_ratio <= 0.8
        assert finished[one.name] is not None
        assert one in streams or one.name.removesuffix(", learned") in finished


def test_much_effort_tries_what_follows_measured_losses():
    choice = chosen_with("best")
    measured = [c for c in choice.candidates if c.name.endswith("narrowed by measured levels")]
    assert measured
    for one in measured:
        assert one.recipe.ffn.selector == "obs"
        assert one.kept_ratio <= 0.8
        assert one.first_loss is not None


def outcome(*by_batch: float) -> BuiltCandidate:
    return BuiltCandidate(sum(by_batch) / len(by_batch), by_batch, None)


@pytest.mark.parametrize(
    ("simple", "chosen"),
    [
        ((1.0, 2.0, 3.0), "simple"),  # the same
        ((1.1, 2.1, 3.1), "other"),  # worse on every batch alike
        ((1.4, 1.8, 3.1), "simple"),  # worse by as much, now here and now there
        ((0.9, 1.9, 2.9), "simple"),  # better
        ((math.inf, 2.0, 3.0), "other"),
    ],
)
def test_a_candidate_has_to_be_told_from_a_simpler_one(simple, chosen):
    assert simplest_of_the_best({"simple": outcome(*simple), "other": outcome(1.0, 2.0, 3.0)}) == chosen


def test_the_standard_error_is_that_of_the_difference():
    one, other = outcome(1.0, 5.0, 9.0), outcome(0.9, 5.1, 8.6)
    assert standard_error(one, other) == pytest.approx(stats.sem([0.1, -0.1, 0.4]))
    assert standard_error(outcome(1.0), outcome(2.0)) == 0


def test_what_the_best_candidate_was_made_of_is_kept_for_the_compression(tmp_path):
    model, data = build("llama-tied"), batches()
    with open_journal(tmp_path / "out") as journal:
        choice = Planner(model, Budget(keep=0.8), CALIBRATION, "auto", data, batches(8, 5), journal=journal).choose()
        plan, part = make_plan(model, choice.recipe), choice.steps(journal)
        kept = compress_model(build("llama-tied"), plan, data, journal=part).model.state_dict()
        assert part.num_recalled > 0
    alone = compress_model(build("llama-tied"), plan, data).model.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in alone.items())


def test_finalists_are_not_built_again_from_the_same_tokens(tmp_path, monkeypatch):
    narrowed, narrow = [], FfnStage.narrow
    monkeypatch.setattr(FfnStage, "narrow", lambda *given: narrowed.append(1) or narrow(*given))
    planner = Planner(build("llama-tied"), Budget(keep=0.8), CALIBRATION, "auto", batches(), batches(8, 5))
    twice, often = planner.choose(), len(narrowed)
    narrowed.clear()
    with open_journal(tmp_path / "out") as journal:
        once = replace(planner, journal=journal, shared=Shared(), phases=Phases()).choose()
        files = [unquote(path.name) for path in journal.folder.iterdir()]
    assert len(narrowed) < often
    assert [one.excess_loss for one in once.candidates] == [one.excess_loss for one in twice.candidates]
    for one in once.candidates:
        finalist = one.excess_loss is not None
        assert any(name.startswith(f"{one.name}: ") for name in files) == finalist


def test_a_budget_that_nothing_meets():
    with pytest.raises(UserInputError, match="no candidate meets this budget"):
        Planner(build("gpt2"), Budget(params=10), CALIBRATION, "stock", batches(), batches()).choose()


@pytest.mark.parametrize("budget", [Budget(flops=0.9), Budget(keep=0.9, objective="flops")])
def test_a_share_of_the_operations_can_be_said_in_two_ways(budget):
    model = build("llama")
    plan = make_plan(model, parse_recipe(settings() | {"ffn": {"size": 32}}))
    assert budget.share(model, plan.recipe) == pytest.approx(plan.flops_after / plan.flops_before / 0.9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"params": 10, "objective": "latency"}, "says what --keep is a share of"),
        ({"flops": 0.5, "objective": "flops"}, "says what --keep is a share of"),
        ({"objective": "latency"}, "give one budget"),
        ({"keep": 0.8, "objective": "flop"}, "unknown objective 'flop'. Did you mean 'flops'?"),
    ],
)
def test_objectives_that_make_no_sense(given, message):
    with pytest.raises(UserInputError, match=message):
        Budget(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [({}, "give one budget"), ({"keep": 0.5, "flops": 0.5}, "give one budget"), ({"keep": 1.2}, "outside")],
)
def test_budgets_that_make_no_sense(given, message):
    with pytest.raises(UserInputError, match=message):
        Budget(**given)
