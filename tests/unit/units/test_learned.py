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
from neuromeld.units.pools import Pool
from unit.stages.models import batches

CALIBRATION = {"tokens": 4096, "seqlen": 16}


def draw(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


@pytest.mark.parametrize("keep", [24, 56, 120, 160])
def test_layers_that_share_a_budget_spend_it_where_scores_are_largest(keep):
    pool = Pool(Space.FFN, (0, 1, 3), (40, 64, 56), keep, step=8)
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
    pool = Pool(Space.FFN, (0, 1), (12, 20), 14)
    scores = draw(12, 20)
    assert float(torch.cat(pool.shares(scores, 0.3)).sum()) == pytest.approx(14)
    for share, mask in zip(pool.shares(scores, 1e-5), pool.choice(scores), strict=True):
        torch.testing.assert_close(share, mask, rtol=0, atol=1e-6)


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
    pools = [Pool(Space.FFN, (layer,), (width,), width - len(useless)) for layer in range(arch.num_layers)]
    done = learned(model, pools)
    looks = done.looks
    for found in done.scores.values():
        assert set(found.topk(len(useless), largest=False).indices.tolist()) == set(useless.tolist())
    tested = [look.held_out for look in looks if look.held_out is not None]
    assert min(tested) < 1e-4
    assert [look.step for look in looks] == list(range(len(looks)))


def test_learning_brings_held_out_predictions_nearer():
    model = build("llama", dtype=torch.float32)
    pool = Pool(Space.FFN, (0, 1, 2, 3), (40,) * 4, 96, step=8)
    looks = learned(model, [pool], batches(48)).looks
    tested = [look.held_out for look in looks if look.held_out is not None]
    assert min(tested) < tested[0]
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_light_learning_is_the_same():
    model = build("llama", dtype=torch.float32)
    pools = [Pool(Space.FFN, (0, 2), (40, 40), 48, step=8), Pool(Space.HEADS, (1,), (2,), 1)]
    found, expected = (learned(model, pools, light=light).scores for light in (True, False))
    assert list(found) == [
        architecture_of(model).consumer(*place).path for place in ((0, Space.FFN), (2, Space.FFN), (1, Space.HEADS))
    ]
    for path, scores in expected.items():
        assert torch.equal(found[path], scores)


def test_learning_goes_on_where_it_was_interrupted(tmp_path):
    model, pools = build("llama", dtype=torch.float32), [Pool(Space.FFN, (0, 1), (40, 40), 48, step=8)]
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
    ("stage", "message"),
    [
        ({"size": 24, "by_layer": True}, "by_layer needs scores that compare layers, and wanda has none"),
        ({"size": [24, 8], "by_layer": True, "selector": "learned"}, "by_layer finds the size of each layer"),
    ],
)
def test_sizes_that_cannot_be_found(stage, message):
    with pytest.raises(UserInputError, match=message):
        parse_recipe({"ffn": stage})


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
