"""Layers that are dropped, absorbed by the FFN in front of them."""

import pytest
import torch

from contract.families import batches_for, build, inputs_for
from contract.kinds import EXPERTS, SPECS
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.errors import UserInputError
from neuromeld.evaluation import unique_parameters
from neuromeld.model.capture import record_calls
from neuromeld.model.surgery import read_bias, read_matrix, write_bias, write_matrix
from neuromeld.planning.plan import architecture_of
from neuromeld.stages.drop_layers import DropLayersStage
from neuromeld.stages.drop_layers.absorb import absorb, fit_windows, holes_of
from neuromeld.stats.split import is_held_out
from unit.stages.jobs import job
from unit.stages.models import batches

NOT_ADDING = {"bert", "roberta", "bart", "marian", "olmo2", "olmo3", "gemma2", "gemma3_text"}
"""Model types with a norm between an FFN and the stream, or on the stream."""


def silence(model, layer):
    """Let a layer add nothing."""
    arch = architecture_of(model)
    for weight in arch.producers(layer, "residual"):
        write_matrix(model, weight, torch.zeros_like(read_matrix(model, weight)))
        bias = read_bias(model, weight)
        if bias is not None:
            write_bias(model, weight, torch.zeros_like(bias))


def dropped(model, data=None, **stage):
    plan = make_plan(model, parse_recipe({"drop_layers": stage, "calibration": {"tokens": 4096, "seqlen": 16}}))
    return compress_model(model, plan, data or batches())


@pytest.mark.parametrize("family", ["llama-biased", "gpt2", "falcon", "granite", "dinov2", "t5", "whisper"])
def test_layers_that_add_nothing_go_without_loss(family):
    model = build(family)
    offsets = architecture_of(model).stack_offsets
    for start in offsets:
        silence(model, start + 1)
        silence(model, start + 2)
    inputs = inputs_for(model, 4)
    with torch.no_grad():
        expected = model(**inputs)[0]
        done = dropped(model, batches_for(model, 32), layers=[1, 2])
        found = model(**inputs)[0]
    holes = done.results["drop_layers"].absorbed
    assert [(hole.host, hole.start, hole.end) for hole in holes] == [(s, s + 1, s + 2) for s in offsets]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def stream_behind(model, arch, layer, data):
    """What leaves a layer on every batch, in one piece."""
    calls = record_calls(model, arch, data)
    hidden = calls.hidden
    for index in range(layer + 1):
        module = model.get_submodule(arch.layer_path(index))
        hidden = [calls.run(module, index, b, x) for b, x in enumerate(hidden)]
    return torch.cat(hidden).flatten(0, 1)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_error_on_fitted_tokens_is_never_above_that_of_a_plain_drop(family):
    model, data = build(family), batches()
    arch, fitted = architecture_of(model), [b for i, b in enumerate(data) if not is_held_out(i, len(data))]
    wanted, plain = stream_behind(model, arch, 2, fitted), stream_behind(model, arch, 0, fitted)
    (hole,) = absorb(job(model, data), [1, 2])
    absorbed = stream_behind(model, arch, 0, fitted)
    norms = wanted.norm(dim=1)
    errors = [((stream - wanted).norm(dim=1) / norms).square().sum() for stream in (absorbed, plain)]
    assert errors[0] < errors[1]
    assert hole.fit.error_after < hole.fit.error_before


def test_the_refit_is_the_weighted_least_squares_with_the_ridge_that_it_names():
    model, data = build("llama"), batches()
    arch = architecture_of(model)
    weight = arch.consumer(0, "ffn")
    before = read_matrix(model, weight).clone()
    fitted = [b for i, b in enumerate(data) if not is_held_out(i, len(data))]
    units = []
    handle = model.get_submodule(weight.path).register_forward_pre_hook(lambda _, args: units.append(args[0]))
    plain = stream_behind(model, arch, 0, fitted)
    handle.remove()
    wanted, z = stream_behind(model, arch, 2, fitted), torch.cat(units[: len(fitted)]).flatten(0, 1)
    (hole,) = absorb(job(model, data), [1, 2])
    norms = wanted.norm(dim=1, keepdim=True)
    x, y = z / norms, (wanted - plain + z @ before) / norms
    gram = x.T @ x / len(x)
    damped = gram + hole.fit.ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    expected = before + torch.linalg.solve(damped, x.T @ (y - x @ before) / len(x))
    torch.testing.assert_close(read_matrix(model, weight), expected, rtol=1e-7, atol=1e-9)


def test_a_second_hole_sees_the_stream_behind_the_first():
    """Two holes at once are the first, and then the second against the dense stream: the first fit is that of one."""
    both, one = build("llama"), build("llama")
    first, second = absorb(job(both, batches()), [1, 3])
    (alone,) = absorb(job(one, batches()), [1])
    assert first == alone
    assert (second.host, second.start) == (2, 3)
    fits = fit_windows(job(build("llama"), batches()), batches(), [1])
    on_dense = fits[3, 1]
    found = read_matrix(both, architecture_of(both).consumer(2, "ffn"))
    assert (found - on_dense).norm() / on_dense.norm() > 1e-3


def test_a_window_that_is_tried_is_what_is_absorbed():
    model = build("gpt2")
    fits = fit_windows(job(model, batches()), batches(), [1, 2])
    assert set(fits) == {(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)}
    absorb(job(model, batches()), [2, 3])
    weight = architecture_of(model).consumer(1, "ffn")
    found = torch.cat([read_matrix(model, weight), read_bias(model, weight)[None]])
    torch.testing.assert_close(found, fits[2, 2], rtol=1e-9, atol=1e-9)


def test_families_whose_ffns_do_not_add_are_left_alone():
    adding = {family for family, spec in SPECS.items() if all(stack.ffn_adds for stack in spec.stacks)}
    left = {family for family, spec in SPECS.items() if spec.model_type in NOT_ADDING}
    assert adding == SPECS.keys() - left - set(EXPERTS)


def test_several_windows_are_found_one_after_the_other():
    model = build("llama")
    before = unique_parameters(model)
    done = dropped(model, count=2, windows=2)
    result = done.results["drop_layers"]
    first, second = (search.best.window for search in result.searches)
    assert abs(first.start - second.start) > 1
    assert result.layers == sorted([first.start, second.start])
    assert unique_parameters(model) == done.plan.parameters_after < before
    tried = done.record()["dropped_windows"]
    assert {window["round"] for window in tried} == {1, 2}
    sections = DropLayersStage().sections(done.record())
    assert [section.title for section in sections] == ["Removed layers, window 1", "Removed layers, window 2"]


def test_more_windows_than_may_be_found():
    with pytest.raises(UserInputError, match=r"drop_layers.windows=3: 3 of 4 layers may not be found"):
        make_plan(build("llama"), parse_recipe({"drop_layers": {"count": 3, "windows": 3}}))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"layers": [1], "windows": 2}, "windows are for `count`"),
        ({"count": 1, "windows": 2}, "windows=2 is more than the 1 layers"),
    ],
)
def test_windows_that_cannot_be(stage, message):
    with pytest.raises(UserInputError, match=message):
        parse_recipe({"drop_layers": stage})


def test_holes():
    assert holes_of([5, 1, 2, 4, 2]) == [range(1, 3), range(4, 6)]
