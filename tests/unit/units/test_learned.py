"""Units that are chosen by learning."""

from contextlib import nullcontext

import pytest
import torch

from contract.families import build
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.archs.spec import Space
from neuromeld.errors import UserInputError
from neuromeld.evaluation import unique_parameters
from neuromeld.model.learning import Teacher
from neuromeld.model.surgery import read_matrix, write_matrix
from neuromeld.planning.plan import architecture_of
from neuromeld.runtime.journal import NO_JOURNAL, open_journal
from neuromeld.stages.ffn import FfnStage
from neuromeld.stats.split import divided
from neuromeld.units.learned import UnitScores
from neuromeld.units.pools import LayerUnits, Pool
from unit.stages.models import batches

CALIBRATION = {"tokens": 4096, "seqlen": 16}


def draw(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


def pool_of(counts, budget, step=1):
    """Hidden neurons by layer under one budget."""
    return Pool(tuple(LayerUnits(Space.FFN, layer, count, step=step) for layer, count in counts.items()), budget)


@pytest.mark.parametrize("keep", [24, 56, 120, 160])
def test_layers_that_share_a_budget_spend_it_where_scores_are_largest(keep):
    pool = pool_of({0: 40, 1: 64, 3: 56}, keep, step=8)
    scores = draw(40, 64, 56)
    scores[1] += 1
    widths = pool.widths(scores)
    assert sum(widths) == keep
    assert all(width % 8 == 0 and width >= 8 for width in widths)
    assert widths[1] == max(widths)
    chosen = pool.choice(scores)
    assert [int(mask.sum()) for mask in chosen] == widths
    for mask, layer in zip(chosen, scores, strict=True):
        assert not (mask == 0).any() or layer[mask == 0].max() <= layer[mask == 1].min()


def test_soft_shares_meet_the_budget_and_become_the_choice():
    pool = pool_of({0: 12, 1: 20}, 14)
    scores = draw(12, 20)
    assert float(torch.cat(pool.shares(scores, 0.3)).sum()) == pytest.approx(14)
    for share, mask in zip(pool.shares(scores, 1e-5), pool.choice(scores), strict=True):
        torch.testing.assert_close(share, mask, rtol=0, atol=1e-6)


@pytest.mark.parametrize("budget", [400, 700, 1100])
def test_units_of_other_costs_share_a_budget_too(budget):
    pool = Pool((LayerUnits(Space.FFN, 0, 40, cost=6, step=8), LayerUnits(Space.HEADS, 0, 4, cost=250)), budget)
    scores = draw(40, 4)
    costs = [member.cost for member in pool.members]
    soft = [float(share.sum()) * cost for share, cost in zip(pool.shares(scores, 0.3), costs, strict=True)]
    assert sum(soft) == pytest.approx(budget)
    widths = pool.widths(scores)
    left = budget - sum(width * cost for width, cost in zip(widths, costs, strict=True))
    assert 0 <= left < 8 * 6 or widths[0] == 40
    scores[1] += 10
    assert pool.widths(scores)[1] >= widths[1]


def learned(model, pools, data=None, journal=NO_JOURNAL, advance=lambda _: None, **options):
    teacher = Teacher(model, model, architecture_of(model), **options)
    return UnitScores(teacher, pools).learned(data or batches(24), journal, advance)


def spoiled(family="llama"):
    """A model with hidden neurons that write nothing, every third; and which they are."""
    model = build(family, dtype=torch.float32)
    arch = architecture_of(model)
    useless = torch.arange(0, arch.widths[Space.FFN], 3)
    for layer in range(arch.num_layers):
        matrix = read_matrix(model, arch.consumer(layer, Space.FFN)).clone()
        matrix[useless] *= 1e-3
        write_matrix(model, arch.consumer(layer, Space.FFN), matrix)
    return model, arch, useless


def test_what_writes_nothing_goes_and_held_out_text_chooses():
    model, arch, useless = spoiled()
    width = arch.widths[Space.FFN]
    pools = [pool_of({layer: width}, width - len(useless)) for layer in range(arch.num_layers)]
    done = learned(model, pools)
    looks = done.looks
    for found in done.scores.values():
        assert set(found.topk(len(useless), largest=False).indices.tolist()) == set(useless.tolist())
    tested = [look.held_out for look in looks if look.held_out is not None]
    assert min(tested) < 1e-4
    assert [look.step for look in looks] == list(range(len(looks)))


def test_learning_brings_held_out_predictions_nearer():
    model = build("llama", dtype=torch.float32)
    pool = pool_of(dict.fromkeys(range(4), 40), 96, step=8)
    looks = learned(model, [pool], batches(48)).looks
    tested = [look.held_out for look in looks if look.held_out is not None]
    assert min(tested) < tested[0]
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_what_is_trained_is_the_choice_and_not_the_soft_one():
    model = build("llama", dtype=torch.float32)
    pool = Pool((LayerUnits(Space.FFN, 0, 40, cost=6, step=8), LayerUnits(Space.HEADS, 1, 2, cost=100)), 250)
    what = UnitScores(Teacher(model, model, architecture_of(model)), [pool])
    numbers, batch = torch.cat(draw(40, 2)), batches(8)[0]
    loss, gradient = what.gradient(numbers, batch, 0.0)
    assert loss == pytest.approx(what.test(numbers, [batch]), rel=1e-6)
    assert bool((gradient != 0).all())  # units that are gone may come back


def test_light_learning_is_the_same():
    model = build("llama", dtype=torch.float32)
    pools = [pool_of({0: 40, 2: 40}, 48, step=8), Pool((LayerUnits(Space.HEADS, 1, 2),), 1)]
    found, expected = (learned(model, pools, light=light).scores for light in (True, False))
    assert list(found) == [
        architecture_of(model).consumer(*place).path for place in ((0, Space.FFN), (2, Space.FFN), (1, Space.HEADS))
    ]
    for path, scores in expected.items():
        assert torch.equal(found[path], scores)


def test_learning_goes_on_where_it_was_interrupted(tmp_path):
    model, pools = build("llama", dtype=torch.float32), [pool_of({0: 40, 1: 40}, 48, step=8)]
    data = batches(48)
    expected = learned(model, pools, data)
    steps = []

    def interrupt(step):
        steps.append(step)
        if step == 2:
            raise KeyboardInterrupt

    def run(advance):
        with open_journal(tmp_path / "out") as journal:
            journal.begin({"job": 1}, force=False)
            return learned(model, pools, data, journal, advance)

    with pytest.raises(KeyboardInterrupt):
        run(interrupt)
    found = run(steps.append)
    assert steps[:3] == [1, 2, 3]
    assert (found.looks, found.layers) == (expected.looks, expected.layers)
    for path, scores in expected.scores.items():
        assert torch.equal(found.scores[path], scores)


@pytest.mark.parametrize("selector", ["learned", "taylor"])
def test_sizes_by_layer_are_found_and_are_as_many_as_planned(selector):
    model = build("llama", dtype=torch.float32)
    stage = {"size": 24, "selector": selector, "by_layer": True}
    plan = make_plan(model, parse_recipe({"ffn": stage, "calibration": CALIBRATION}))
    done = compress_model(model, plan, batches(96))
    assert plan.format == "native"
    assert sum(done.sizes.ffn) == 4 * 24
    assert len(set(done.sizes.ffn)) > 1
    assert unique_parameters(done.model) == plan.parameters_after
    titles = [section.title for section in FfnStage().sections(done.record()) if section]
    assert ("Feed-forward networks: what was learned" in titles) == (selector == "learned")


def test_a_budget_that_steps_do_not_meet_is_kept():
    model = build("llama", dtype=torch.float32)
    stages = {"ffn": {"size": 21, "selector": "taylor", "by_layer": True}, "calibration": CALIBRATION}
    plan = make_plan(model, parse_recipe(stages))
    done = compress_model(model, plan, batches(96))
    assert sum(done.sizes.ffn) == 4 * 21 - 4
    assert unique_parameters(done.model) == plan.parameters_after - 4 * 3 * model.config.hidden_size


def test_fewer_neurons_than_a_step_are_refused():
    stages = {"ffn": {"size": 7, "selector": "taylor", "by_layer": True}, "calibration": CALIBRATION}
    with pytest.raises(UserInputError, match="at least 8 hidden neurons in every layer"):
        make_plan(build("llama"), parse_recipe(stages))


@pytest.mark.parametrize("dropped", [0, 1])
def test_heads_and_neurons_share_a_budget_of_parameters(dropped):
    model = build("llama", dtype=torch.float32)
    stages = {
        "heads": {"num_kv_heads": 2, "selector": "learned", "by_layer": True},
        "ffn": {"size": 24, "selector": "learned", "by_layer": True},
    }
    stages |= {"drop_layers": {"layers": [1]}} if dropped else {}
    plan = make_plan(model, parse_recipe({**stages, "calibration": CALIBRATION}))
    whole = unique_parameters(model)
    done = compress_model(model, plan, batches(96))
    found = unique_parameters(done.model)
    assert plan.format == "native"
    assert dropped or found == predict(done.sizes, whole)
    neuron = 3 * model.config.hidden_size
    assert 0 <= plan.parameters_after - found < 8 * neuron
    assert all(heads >= 1 for heads in done.sizes.num_kv_heads)
    scores = done.record()["heads_learned"]["scores"]
    assert [one["layer"] for one in scores] == list(range(4 - dropped))


def predict(sizes, whole):
    """The parameters of the Llama of `build` at other sizes, as it comes with 2 key-value heads and FFNs of 40."""
    config = build("llama").config
    d, head = config.hidden_size, config.head_dim
    per_group = 2 * d * head * (config.num_attention_heads // config.num_key_value_heads + 1)
    gone = sum(3 * d * (config.intermediate_size - width) for width in sizes.ffn)
    return whole - gone - sum(per_group * (config.num_key_value_heads - heads) for heads in sizes.num_kv_heads)


def test_uniform_sizes_stay_stock():
    model = build("llama", dtype=torch.float32)
    recipe = {
        "ffn": {"size": 24, "selector": "learned"},
        "heads": {"num_kv_heads": 1, "selector": "learned"},
        "calibration": CALIBRATION,
    }
    plan = make_plan(model, parse_recipe(recipe))
    done = compress_model(model, plan, batches(96))
    assert plan.format == "stock"
    assert model.config.intermediate_size == 24
    assert model.config.num_key_value_heads == 1
    record = done.record()
    assert record["ffn_learned"]["looks"] == record["heads_learned"]["looks"]
    assert [len(record[f"{space}_learned"]["scores"]) for space in ("ffn", "heads")] == [4, 4]


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ("ffn", {"size": 24}, "by_layer needs scores that compare layers, and wanda has none"),
        ("ffn", {"size": [24, 8], "selector": "learned"}, "by_layer finds the size of each layer"),
        ("heads", {"num_kv_heads": 1}, "by_layer needs scores that compare layers, and wanda has none"),
        ("heads", {"num_kv_heads": [1, 2], "selector": "learned"}, "by_layer finds the number of each layer"),
    ],
)
def test_sizes_that_cannot_be_found(stage, options, message):
    with pytest.raises(UserInputError, match=message):
        parse_recipe({stage: options | {"by_layer": True}})


def test_what_other_stages_did_counts_as_lost():
    """The predictions that are compared with are those of the model as it came, not of one with a layer less."""
    model, whole, data = build("llama", dtype=torch.float32), build("llama", dtype=torch.float32), batches(96)
    recipe = {
        "drop_layers": {"layers": [2], "compensate": "none"},
        "ffn": {"size": 39, "selector": "learned"},
        "calibration": CALIBRATION,
    }
    looks = compress_model(model, make_plan(model, parse_recipe(recipe)), data).record()["ffn_learned"]["looks"]
    dropped = build("llama", dtype=torch.float32)
    compress_model(dropped, make_plan(dropped, parse_recipe(recipe | {"ffn": None})), data)
    held_out = [data[b] for b in divided(len(data))[1][:2]]
    lost, _ = Teacher(dropped, whole, architecture_of(dropped)).divergence(held_out, nullcontext)
    assert lost > 0.1
    assert looks[0]["held_out"] == pytest.approx(lost, rel=0.2)
