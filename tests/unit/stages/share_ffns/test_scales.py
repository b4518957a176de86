"""The factors that a model has behind its FFNs, fitted anew for merged members: no parameter, exact where it can be."""

import copy

import pytest
import torch

from contract.families import batches_for, build, inputs_for
from neuromeld import make_plan, parse_recipe
from neuromeld.archs.spec import Space
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.evaluation import unique_parameters
from neuromeld.model.capture import record_calls
from neuromeld.model.outputs import outputs
from neuromeld.model.surgery import read_bias, read_matrix, write_bias, write_matrix
from neuromeld.planning.plan import architecture_of
from neuromeld.stages.share_ffns import Sharing, share_ffns
from neuromeld.stages.share_ffns.scales import ChannelAgreement
from neuromeld.stats.split import is_held_out

WINDOW = range(1, 4)


def test_the_factor_is_the_least_squares_one_of_each_channel():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 50, 4, dtype=torch.float64, generator=draw)
    x[:, 2] = 0
    sums = ChannelAgreement(4)
    sums.update(x, y)
    factor = sums.factor()
    for channel in (0, 1, 3):
        expected = torch.linalg.lstsq(x[:, [channel]], y[:, channel]).solution[0]
        torch.testing.assert_close(factor[channel], expected)
    assert factor[2] == 1
    assert sums.error(factor) == pytest.approx(float((x * factor - y).square().sum() / y.square().sum()))


@torch.no_grad()
def test_copies_that_differ_by_what_they_scale_merge_without_loss():
    """Members write the same, each channel by another factor: their LayerScales take the factors up."""
    model = build("dinov2")
    arch = architecture_of(model)
    for layer in WINDOW:
        for old, new in zip(arch.layer_weights(WINDOW[0]), arch.layer_weights(layer), strict=True):
            if "ffn" in (old.in_, old.out) and layer != WINDOW[0]:
                write_matrix(model, new, read_matrix(model, old))
                write_bias(model, new, read_bias(model, old))
    for layer in WINDOW:
        consumer = arch.consumer(layer, Space.FFN)
        factor = 0.5 + torch.rand(arch.width, dtype=torch.float64, generator=torch.Generator().manual_seed(layer))
        write_matrix(model, consumer, read_matrix(model, consumer) * factor)
        write_bias(model, consumer, read_bias(model, consumer) * factor)
    expected, parameters = outputs(model, inputs_for(model, 4)), unique_parameters(model)
    plain = copy.deepcopy(model)
    share_ffns(plain, arch, WINDOW, batches_for(model), Sharing(align="none"))
    assert (outputs(plain, inputs_for(model, 4)) - expected).norm() > 0.01 * expected.norm()
    merged = share_ffns(model, arch, WINDOW, batches_for(model), Sharing(align="none", gain="scale"))
    torch.testing.assert_close(outputs(model, inputs_for(model, 4)), expected, rtol=1e-9, atol=1e-9)
    assert all(member.error_after < 1e-15 < member.error_before for member in merged.members)
    assert unique_parameters(model) == unique_parameters(plain) < parameters


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "olmo2", "olmo3", "dinov2"])
@torch.no_grad()
def test_what_is_written_errs_as_much_as_was_said(family):
    """Also where a norm's gain is its parameter plus one."""
    model = build(family)
    arch, data = architecture_of(model), batches_for(model)
    original = copy.deepcopy(model)
    merged = share_ffns(model, arch, WINDOW, data, Sharing(gain="scale"))
    path = arch.stack(1).ffn_scale.path.rpartition(".")[0]
    missed = total = 0.0
    calls = record_calls(original, arch, data)
    first = WINDOW[0]
    for b in range(len(data)):
        x = calls.hidden[b]
        for layer in range(first):
            x = calls.run(original.get_submodule(arch.layer_path(layer)), layer, b, x)
        x, y = (
            norm(calls.run_until(layer, first, b, x, norm))
            for layer in (m.get_submodule(arch.layer_path(first)) for m in (model, original))
            for norm in (layer.get_submodule(path),)
        )
        if is_held_out(b, len(data)):
            missed, total = missed + float((x - y).square().sum()), total + float(y.square().sum())
    assert merged.members[0].error_after == pytest.approx(missed / total, rel=1e-6)
    assert merged.members[0].error_after < merged.members[0].error_before


def test_models_without_such_factors_are_refused_and_so_is_a_rank():
    recipe = parse_recipe({"share_ffns": {"count": 2, "gain": "scale"}})
    with pytest.raises(UnsupportedModelError, match="llama models have no factors behind their FFNs .* use channel"):
        make_plan(build("llama"), recipe)
    plan = make_plan(build("dinov2"), recipe)
    bare = make_plan(build("dinov2"), parse_recipe({"share_ffns": {"count": 2}}))
    assert plan.parameters_after == bare.parameters_after
    with pytest.raises(UserInputError, match="leave rank out"):
        parse_recipe({"share_ffns": {"count": 2, "gain": "scale", "rank": 2}})
