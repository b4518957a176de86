"""Merging FF sublayers: what must not change, what must, and what the refit promises."""

import pytest
import torch

from contract.families import build
from neuromeld.archs.spec import Space
from neuromeld.errors import UserInputError
from neuromeld.evaluation import unique_parameters
from neuromeld.model.capture import capture_outputs
from neuromeld.model.surgery import read_bias, read_matrix, write_bias, write_matrix
from neuromeld.planning.plan import architecture_of
from neuromeld.stages.share_ffns import Collected, Sharing, collect_alignments, share_ffns
from neuromeld.stages.share_ffns.combine import collect_strengths
from neuromeld.stages.share_ffns.options import ShareFfns
from unit.stages.models import (
    EXACT,
    FAMILIES,
    batches,
    copy_ff,
    logits,
    padded,
    permuted_copies,
    quiet,
    shuffle,
)

WINDOW = range(1, 4)


def ff_weights(arch, layer):
    return [*arch.producers(layer, Space.FFN), arch.consumer(layer, Space.FFN)]


@pytest.mark.parametrize("family", FAMILIES)
def test_permuting_hidden_units_changes_nothing(family):
    model = build(family)
    arch = architecture_of(model)
    expected = logits(model)
    copy_ff(model, arch, 1, 1, shuffle(arch.widths[Space.FFN], 3))
    torch.testing.assert_close(logits(model), expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("compensate", ["none", "ridge"])
@pytest.mark.parametrize(
    ("anchor", "combine"), [("first", "average"), ("middle", "average"), ("last", "average"), ("middle", "strongest")]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_permuted_copies_merge_without_loss(family, anchor, combine, compensate):
    model, arch, _ = permuted_copies(family)
    expected = logits(model)
    share_ffns(model, arch, WINDOW, batches(), Sharing(anchor=anchor, combine=combine, compensate=compensate))
    torch.testing.assert_close(logits(model), expected, rtol=EXACT, atol=EXACT)


def test_without_alignment_permuted_copies_do_not():
    model, arch, _ = permuted_copies("llama")
    expected = logits(model)
    share_ffns(model, arch, WINDOW, how=Sharing(align="none"))
    assert (logits(model) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("compensate", ["none", "ridge"])
@pytest.mark.parametrize("family", FAMILIES)
def test_members_share_their_parameters_and_the_count_falls_by_all_but_one(family, compensate):
    model = build(family)
    arch = architecture_of(model)
    before = unique_parameters(model)
    modules = [model.get_submodule(weight.path) for weight in ff_weights(arch, 2)]
    sublayer = sum(parameter.numel() for module in modules for parameter in module.parameters())
    share_ffns(model, arch, WINDOW, batches(), Sharing(compensate=compensate))
    assert unique_parameters(model) == before - 2 * sublayer
    for layer in (2, 3):
        for weight, first in zip(ff_weights(arch, layer), ff_weights(arch, 1), strict=True):
            module, shared = model.get_submodule(weight.path), model.get_submodule(first.path)
            assert module is not shared
            assert module.weight is shared.weight
            assert module.bias is shared.bias
    assert model.get_submodule(ff_weights(arch, 0)[0].path).weight is not shared.weight


@pytest.mark.parametrize("family", ["llama-biased", "gpt2"])
def test_vanilla_merging_is_the_average(family):
    model, original = build(family), build(family)
    arch = architecture_of(model)
    result = share_ffns(model, arch, WINDOW, how=Sharing(align="none"))
    assert result.permutations == {}
    for position, weight in enumerate(ff_weights(arch, 1)):
        members = [ff_weights(arch, layer)[position] for layer in WINDOW]
        matrices = [read_matrix(original, member) for member in members]
        biases = [read_bias(original, member) for member in members]
        torch.testing.assert_close(read_matrix(model, weight), sum(matrices) / 3)
        torch.testing.assert_close(read_bias(model, weight), sum(biases) / 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_strongest_is_the_member_that_writes_while_the_others_are_silent(family):
    """In each slot one member writes with a unit of its own and the others nothing: no unit that writes is lost."""
    model = build(family)
    arch = architecture_of(model)
    size = arch.widths[Space.FFN]
    owner = torch.arange(size) % len(WINDOW)
    for number, layer in enumerate(WINDOW):
        consumer = arch.consumer(layer, Space.FFN)
        write_matrix(model, consumer, read_matrix(model, consumer) * (owner == number)[:, None])
    own = {layer: [read_matrix(model, weight).clone() for weight in ff_weights(arch, layer)] for layer in WINDOW}
    strength = torch.stack([*collect_strengths(model, arch, [WINDOW], batches()).values()])
    speaking = strength[owner, torch.arange(size)].nonzero().flatten().tolist()
    assert speaking
    share_ffns(model, arch, WINDOW, batches(), Sharing(align="none", combine="strongest"))
    for position, weight in enumerate(ff_weights(arch, WINDOW[0])):
        found, repeats = read_matrix(model, weight), weight.repeats
        for slot in speaking:
            kept = own[WINDOW[int(owner[slot])]][position]
            if weight.out != "ffn":
                assert torch.equal(found[slot], kept[slot])
            for repeat in range(repeats if weight.out == "ffn" else 0):
                assert torch.equal(found[:, repeat * size + slot], kept[:, repeat * size + slot])


@pytest.mark.parametrize(("options", "combined"), [({}, "strongest"), ({"compensate": "none"}, "average")])
def test_the_strongest_units_are_the_default_where_a_refit_follows(options, combined):
    for final in (False, True):
        assert ShareFfns(count=2, **options).sharing(final=final).combine == combined
        assert ShareFfns(count=2, combine="average", **options).sharing(final=final).combine == "average"


def test_a_units_strength_is_the_size_of_what_it_writes():
    model = build("llama")
    arch = architecture_of(model)
    layer = WINDOW[0]
    found = collect_strengths(model, arch, [WINDOW], batches())
    path, matrix = arch.consumer(layer, Space.FFN).path, read_matrix(model, arch.consumer(layer, Space.FFN)).double()
    read = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, args: read.append(args[0].flatten(0, -2)))
    for batch in batches():
        model(**batch)
    handle.remove()
    z = torch.cat(read).double()
    written = (z[:, :, None] * matrix[None]).square().sum(2).mean(0).sqrt()
    torch.testing.assert_close(found[layer], written)


@pytest.mark.parametrize("combine", ["average", "strongest"])
def test_what_was_collected_before_is_used(combine):
    """Sums for all windows, collected once, give what a window of its own would."""
    model, alone = build("llama"), build("llama")
    arch = architecture_of(model)
    alignments = collect_alignments(model, arch, [range(0, 3), WINDOW], "first", batches())
    strengths = collect_strengths(model, arch, [range(0, 3), WINDOW], batches())
    given = share_ffns(model, arch, WINDOW, (), Sharing(combine=combine), Collected(alignments, strengths))
    own = share_ffns(alone, arch, WINDOW, batches(), Sharing(combine=combine))
    assert {layer: order.tolist() for layer, order in given.permutations.items()} == {
        layer: order.tolist() for layer, order in own.permutations.items()
    }
    assert torch.equal(logits(model), logits(alone))


def related(family):
    """A quiet model whose FF sublayers are noisy copies of one: averaging is not the best that can be shared."""
    model, arch, _ = permuted_copies(family)
    generator = torch.Generator().manual_seed(7)
    for layer in WINDOW:
        for weight in ff_weights(arch, layer):
            matrix = read_matrix(model, weight)
            noise = torch.randn(matrix.shape, generator=generator, dtype=matrix.dtype)
            write_matrix(model, weight, matrix + 0.7 * matrix.std() * noise)
    return model, arch


def written(model, arch, data):
    """What each FF sublayer of the window writes, at its own norm's input of the original network."""
    seen = {}
    paths = [arch.consumer(layer, Space.FFN).path for layer in WINDOW]
    capture_outputs(model, arch, paths, data, lambda path, x: seen.setdefault(path, []).append(x))
    return [torch.cat(seen[path]) for path in paths]


@pytest.mark.parametrize("family", ["llama", "llama-biased", "gpt2", "opt"])
def test_ridge_lowers_the_error_on_held_out_tokens_and_of_the_logits(family):
    expected = logits(related(family)[0])
    errors = []
    for compensate in ("none", "ridge"):
        model, arch = related(family)
        result = share_ffns(model, arch, WINDOW, batches(384), Sharing(compensate=compensate))
        errors.append(float((logits(model) - expected).norm()))
    assert result.refit.kept
    assert result.refit.error_after < result.refit.error_before
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_ridge_error_is_that_of_the_members_on_the_original_stream(family):
    """Checked against a network in which only one member at a time is the merged one, so its input is the original."""
    data = batches(16)
    original, arch = related(family)
    merged, _ = related(family)
    average, _ = related(family)
    share_ffns(average, arch, WINDOW, data)
    result = share_ffns(merged, arch, WINDOW, data, Sharing(compensate="ridge"))
    for model, error in ((average, result.refit.error_before), (merged, result.refit.error_after)):
        squares = energy = 0.0
        held_out = data[1:]
        for position, target in enumerate(written(original, arch, held_out)):
            layer = WINDOW[position]
            mixed, _ = related(family)
            for weight in ff_weights(arch, layer):
                write_matrix(mixed, weight, read_matrix(model, weight))
                if read_bias(model, weight) is not None:
                    write_bias(mixed, weight, read_bias(model, weight))
            squares += float((written(mixed, arch, held_out)[position] - target).square().sum())
            energy += float(target.square().sum())
        assert abs(squares / energy - error) < EXACT


@pytest.mark.parametrize("family", FAMILIES)
def test_ridge_never_raises_the_error_on_held_out_tokens(family):
    """Too few tokens to fit anything: the average is kept where the fit does not help."""
    model, average = build(family), build(family)
    arch = architecture_of(model)
    result = share_ffns(model, arch, WINDOW, batches(16), Sharing(compensate="ridge"))
    assert result.refit.error_after <= result.refit.error_before
    if not result.refit.kept:
        share_ffns(average, arch, WINDOW, batches(16))
        assert torch.equal(logits(model), logits(average))


def test_padding_is_not_seen():
    results = []
    for filler in (5, 60):
        model, arch = quiet("llama")
        share_ffns(model, arch, WINDOW, padded(batches(), filler), Sharing(compensate="ridge"))
        results.append(logits(model))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


def test_a_window_can_be_merged_in_low_precision():
    model = build("llama", dtype=torch.bfloat16)
    result = share_ffns(model, architecture_of(model), WINDOW, batches(), Sharing(compensate="ridge"))
    assert model.dtype == torch.bfloat16
    assert result.refit.error_after <= result.refit.error_before


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (range(2, 3), "window of 1 sublayers.*at least 2"),
        (range(0, 4, 2), "at least 2 adjacent"),
        (range(1, 6), "layers 1 to 5 does not fit.*0 to 3"),
        (range(-1, 2), "does not fit"),
    ],
)
def test_windows_that_cannot_be_merged(window, message):
    model = build("llama")
    arch = architecture_of(model)
    expected = logits(model)
    for call in (
        lambda: share_ffns(model, arch, window, batches()),
        lambda: collect_alignments(model, arch, [window], "first", batches()),
    ):
        with pytest.raises(UserInputError, match=message):
            call()
    assert torch.equal(logits(model), expected)


def test_sublayers_of_different_widths_are_named():
    model = build("llama")
    arch = architecture_of(model)
    for weight in ff_weights(arch, 2):
        matrix = read_matrix(model, weight)
        write_matrix(model, weight, matrix[:, :30] if weight.out == "ffn" else matrix[:30])
    with pytest.raises(UserInputError, match=r"40 \(layer 1\), 30 \(layer 2\), 40 \(layer 3\)"):
        share_ffns(model, arch, WINDOW, batches())


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"align": "none", "anchor": "last"}, 0, "anchor='last' has no effect where align='none'"),
        (
            {},
            0,
            "align='permute' and combine='average' with compensate='none' need at least 1 calibration batches.*0 given",
        ),
        ({"align": "none", "compensate": "ridge"}, 0, "need at least 2 .*0 given"),
        ({"compensate": "ridge"}, 1, "need at least 2 .*1 given"),
    ],
)
def test_options_that_do_not_go_together(options, data, message):
    model = build("llama")
    expected = logits(model)
    with pytest.raises(UserInputError, match=message):
        share_ffns(model, architecture_of(model), WINDOW, batches()[:data], Sharing(**options))
    assert torch.equal(logits(model), expected)
