"""The search for a window, and that it leaves no trace."""

import itertools
from functools import partial

import pytest
import torch

from contract.families import build
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.errors import UserInputError
from neuromeld.evaluation import batch_losses, mean_loss, mean_of
from neuromeld.model.surgery import read_matrix, reversible, write_matrix
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
    search_windows(model, arch, windows_of(arch, 2), treat, batches(24, seed=2))
    assert snapshot(model) == modules
    assert model.config.to_dict() == config
    assert list(dict(model.named_parameters())) == list(weights)
    for name, parameter in model.named_parameters():
        assert parameter is weights[name][0]
        assert torch.equal(parameter, weights[name][1])
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize(
    ("family", "method"),
    [*itertools.product(FAMILIES, ["merge", "drop", "delete"]), ("t5", "drop"), ("bart", "drop"), ("t5", "delete")],
)
def test_a_trial_that_begins_at_its_window_has_the_loss_of_the_whole_model(family, method):
    model, validation = build(family), batches(24, seed=2)
    arch = architecture_of(model)
    if len(arch.depths) > 1:
        validation = [b | {"decoder_input_ids": b["input_ids"], "labels": b["input_ids"]} for b in validation]
        treat = partial({"drop": drop_layers, "delete": remove_ffns}[method], model, arch)
    else:
        treat = treatments(model, arch)[method]
    found = search_windows(model, arch, windows_of(arch, 2), treat, validation)
    assert any(tried.batches == len(validation) for tried in found.tried)
    for tried in found.tried:
        with reversible(model):
            treat(tried.window)
            losses = batch_losses(model, validation)
        if tried.batches == len(validation):
            assert tried.loss == pytest.approx(mean_of(losses), rel=1e-12)


def test_a_change_before_the_window_counts():
    """As where the layer before what is dropped is fitted anew."""
    model, arch = build("llama"), architecture_of(build("llama"))
    validation, last = batches(16, seed=2), arch.consumer(1, "ffn")

    def treat(_):
        write_matrix(model, last, 2 * read_matrix(model, last))

    found = search_windows(model, arch, [range(3, 4)], treat, validation)
    treat(None)
    assert found.best.loss == pytest.approx(mean_loss(model, validation), rel=1e-12)


def test_a_layer_that_is_dropped_before_the_window_counts():
    model, arch = build("llama"), architecture_of(build("llama"))
    validation = batches(16, seed=2)

    def treat(_):
        drop_layers(model, arch, [0, 3])

    found = search_windows(model, arch, [range(3, 4)], treat, validation)
    treat(None)
    assert found.best.loss == pytest.approx(mean_loss(model, validation), rel=1e-12)


def test_the_model_is_put_back_after_an_error():
    model = build("llama")
    arch = architecture_of(model)
    expected = logits(model)

    def interrupted(window):
        drop_layers(model, arch, window)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_windows(model, arch, windows_of(arch, 2), interrupted, batches(8))
    assert torch.equal(logits(model), expected)


def test_the_window_of_permuted_copies_is_found():
    model, arch, _ = permuted_copies("llama")
    windows, done = windows_of(arch, 3, at_least=2), []
    collected = Collected(collect_alignments(model, arch, windows, "first", batches()))
    validation = own_text(model)
    found = search_windows(
        model,
        arch,
        windows,
        lambda window: share_ffns(model, arch, window, collected=collected),
        validation,
        advance=done.append,
    )
    assert [tried.window for tried in found.tried] == [range(0, 3), range(1, 4)]
    assert found.best.window == range(1, 4)
    assert found.best.loss == pytest.approx(mean_loss(model, validation), abs=1e-9)
    assert found.tried[0].loss > found.best.loss
    assert done == list(range(1, len(validation) + 1))


def own_text(model):
    """Batches with the words that the model finds likeliest, so that every change of it costs."""
    with torch.no_grad():
        return [batch | {"labels": model(**batch).logits.argmax(-1)} for batch in batches(32, seed=2)]


@pytest.mark.parametrize("options", [{}, {"compensate": "none"}, {"combine": "average"}, {"align": "none"}])
def test_what_is_tried_is_what_is_done(options):
    """So few batches that windows are tried on all of them."""
    model, validation = build("llama"), batches(8, seed=2)
    plan = make_plan(model, parse_recipe({"share_ffns": {"count": 2, **options}}))
    found = compress_model(model, plan, batches(48), validation=validation)
    search = found.results["share_ffns"].search
    assert len(search.tried) == 3
    assert search.best.loss == pytest.approx(mean_loss(found.model, validation), rel=1e-12)


def test_windows():
    arch = architecture_of(build("llama"))
    assert windows_of(arch, 3) == [range(0, 3), range(1, 4)]
    assert windows_of(arch, 4) == [range(0, 4)]


@pytest.mark.parametrize(("length", "at_least"), [(5, 1), (1, 2), (0, 1)])
def test_lengths_that_do_not_fit(length, at_least):
    arch = architecture_of(build("llama"))
    with pytest.raises(UserInputError, match=f"window of {length} sublayers is outside {at_least} to 4"):
        windows_of(arch, length, at_least=at_least)
