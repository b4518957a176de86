"""The search for a window, and that it leaves no trace."""

import math

import pytest
import torch

from contract.families import build
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.errors import UserInputError
from neuromeld.evaluation import mean_loss
from neuromeld.model.capture import advancing
from neuromeld.planning.plan import architecture_of
from neuromeld.stages.drop_layers import drop_layers
from neuromeld.stages.remove_ffns import remove_ffns
from neuromeld.stages.share_ffns import Collected, Sharing, collect_alignments, share_ffns
from neuromeld.stages.windows import search_windows, windows_of
from unit.stages.models import FAMILIES, batches, logits, permuted_copies


def treatments(model, arch):
    collected = Collected(collect_alignments(model, arch, windows_of(arch, 2, at_least=2), "first", batches(16)))
    ridge = Sharing(compensate="ridge")
    return {
        "merge": lambda window: share_ffns(model, arch, window, collected=collected),
        "ridge": lambda window: share_ffns(model, arch, window, batches(16), ridge, collected),
        "drop": lambda window: drop_layers(model, arch, window),
        "delete": lambda window: remove_ffns(model, arch, window),
    }


def snapshot(model):
    return {
        name: (id(module), {k: v for k, v in vars(module).items() if isinstance(v, int | tuple)})
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize("method", ["merge", "ridge", "drop", "delete"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_put_back_bit_for_bit(family, method):
    model = build(family)
    arch = architecture_of(model)
    treat = treatments(model, arch)[method]
    expected, modules, config = logits(model), snapshot(model), model.config.to_dict()
    weights = {name: (parameter, parameter.clone()) for name, parameter in model.named_parameters()}
    losses = []

    def loss(treated):
        losses.append(float((logits(treated) - expected).norm()))
        return losses[-1]

    search_windows(model, windows_of(arch, 2), treat, loss)
    assert min(losses) > 0
    assert snapshot(model) == modules
    assert model.config.to_dict() == config
    assert list(dict(model.named_parameters())) == list(weights)
    for name, parameter in model.named_parameters():
        assert parameter is weights[name][0]
        assert torch.equal(parameter, weights[name][1])
    assert torch.equal(logits(model), expected)


def test_the_model_is_put_back_after_an_error():
    model = build("llama")
    arch = architecture_of(model)
    expected = logits(model)

    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_windows(model, windows_of(arch, 2), lambda window: drop_layers(model, arch, window), interrupted)
    assert torch.equal(logits(model), expected)


def test_the_window_of_permuted_copies_is_found():
    model, arch, _ = permuted_copies("llama")
    collected = Collected(collect_alignments(model, arch, windows_of(arch, 3, at_least=2), "first", batches()))
    expected = logits(model)
    done = []
    found = search_windows(
        model,
        advancing(windows_of(arch, 3, at_least=2), done.append),
        lambda window: share_ffns(model, arch, window, collected=collected),
        lambda merged: float((logits(merged) - expected).norm()),
    )
    assert [tried.window for tried in found.tried] == [range(0, 3), range(1, 4)]
    assert found.best.window == range(1, 4)
    assert found.best.loss < 1e-9 < found.tried[0].loss
    assert done == [1, 2]


@pytest.mark.parametrize("options", [{}, {"compensate": "none"}, {"combine": "average"}, {"align": "none"}])
def test_what_is_tried_is_what_is_done(options):
    """So few batches that windows are tried on all of them."""
    model, validation = build("llama"), batches(8, seed=2)
    plan = make_plan(model, parse_recipe({"share_ffns": {"count": 2, **options}}))
    found = compress_model(model, plan, batches(48), validation=validation)
    search = found.results["share_ffns"].search
    assert len(search.tried) == 3
    assert search.best.loss == pytest.approx(mean_loss(found.model, validation), rel=1e-12)


def test_a_loss_that_is_not_a_number_never_wins():
    model = build("llama")
    values = iter([math.nan, 3.0, 2.0, math.inf])
    found = search_windows(model, windows_of(architecture_of(model), 1), lambda _: None, lambda _: next(values))
    assert [tried.loss for tried in found.tried] == [math.inf, 3.0, 2.0, math.inf]
    assert found.best.window == range(2, 3)


def test_windows():
    arch = architecture_of(build("llama"))
    assert windows_of(arch, 3) == [range(0, 3), range(1, 4)]
    assert windows_of(arch, 4) == [range(0, 4)]


@pytest.mark.parametrize(("length", "at_least"), [(5, 1), (1, 2), (0, 1)])
def test_lengths_that_do_not_fit(length, at_least):
    arch = architecture_of(build("llama"))
    with pytest.raises(UserInputError, match=f"window of {length} sublayers is outside {at_least} to 4"):
        windows_of(arch, length, at_least=at_least)
