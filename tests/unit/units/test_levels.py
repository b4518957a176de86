"""Losses of widths: against a forward pass by hand, and what they give a budget."""

import math

import pytest
import torch

from contract.families import build
from neuromeld.archs.spec import Space
from neuromeld.evaluation import unique_parameters
from neuromeld.linalg.removal import Removal
from neuromeld.model.surgery import read_bias, read_matrix, reversible, write_bias, write_matrix
from neuromeld.planning.pipeline import compress_model
from neuromeld.planning.plan import architecture_of, make_plan
from neuromeld.planning.recipe import parse_recipe
from neuromeld.runtime.journal import NO_JOURNAL
from neuromeld.stats.split import divided
from neuromeld.units import levels
from neuromeld.units.levels import LevelLosses, marginal_losses
from unit.stages.models import batches
from unit.units.models import calls

CALIBRATION = {"tokens": 1536, "seqlen": 16}


def removal(*errors: float) -> Removal:
    return Removal(torch.arange(len(errors)), torch.tensor(errors, dtype=torch.float64))


def test_losses_between_levels_follow_the_errors_of_the_removal():
    found = marginal_losses([2, 4], [1.0, 4.0], removal(1, 3, 1, 2))
    torch.testing.assert_close(found, torch.tensor([0.25, 0.75, 1.0, 2.0], dtype=torch.float64))


def test_a_level_above_the_line_between_its_neighbours_is_left_out():
    """Else what comes behind it would look cheap, and cannot be had without it."""
    found = marginal_losses([1, 2, 4], [3.0, 2.0, 8.0], removal(1, 1, 1, 1))
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 3.0, 3.0], dtype=torch.float64))


CASES = [("llama", Space.FFN, 40), ("llama", Space.HEADS, 2), ("opt", Space.FFN, 40)]


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize(("family", "space", "count"), CASES)
def test_the_features_of_a_layer_add_up_to_the_loss_without_them(family, space, count, step, monkeypatch):
    model = build(family, dtype=torch.float64)
    arch, data = architecture_of(model), batches(32)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    predicted = data[0]["input_ids"][:, 1:].numel()
    monkeypatch.setattr(levels, "PREDICTIONS", math.ceil(predicted / step))
    found = LevelLosses(model, arch, {space: count}).measured(data, data[:1], NO_JOURNAL)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    layer = arch.num_layers - 1
    consumer = arch.consumer(layer, space)
    assert {len(scores) for scores in found.values()} == {arch.widths[space]}
    with torch.no_grad(), reversible(model):
        wrote = torch.cat([y for _, y in calls(model, consumer.path, [data[b] for b in divided(len(data))[0]])]).mean(0)
        whole = model(**data[0]).logits.log_softmax(-1)
        write_matrix(model, consumer, torch.zeros_like(read_matrix(model, consumer)))
        if read_bias(model, consumer) is not None:
            write_bias(model, consumer, wrote)
        without = model(**data[0]).logits.log_softmax(-1)
    expected = (whole.exp() * (whole - without)).sum(-1)[:, :-1].flatten()[::step].mean()
    assert float(found[consumer.path].sum()) == pytest.approx(float(expected), rel=1e-6)


def test_widths_by_layer_follow_the_losses_and_are_as_many_as_planned():
    """One FFN of four writes nothing, so it gives all that it can."""
    model = build("llama", dtype=torch.float32)
    consumer = architecture_of(model).consumer(2, Space.FFN)
    write_matrix(model, consumer, 1e-4 * read_matrix(model, consumer))
    stage = {"size": 24, "selector": "obs", "by_layer": True}
    plan = make_plan(model, parse_recipe({"ffn": stage, "calibration": CALIBRATION}))
    assert plan.format == "native"
    done = compress_model(model, plan, batches(96))
    assert done.sizes.ffn[2] == 8
    assert sum(done.sizes.ffn) == 4 * 24
    assert unique_parameters(done.model) == plan.parameters_after
