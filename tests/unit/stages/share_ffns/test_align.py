"""Correlations of features, and the permutation that they give."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from contract.families import build
from neuromeld.archs.spec import Space
from neuromeld.model.capture import capture_outputs
from neuromeld.planning.plan import architecture_of
from neuromeld.stages.share_ffns import collect_alignments
from neuromeld.stages.share_ffns.align import anchor_of
from unit.stages.models import EXACT, batches, padded, permuted_copies


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
@pytest.mark.parametrize(("anchor", "member"), [(1, 2), (2, 1)])
def test_correlation_equals_numpy_and_assignment_scipy(family, anchor, member):
    model = build(family)
    arch = architecture_of(model)
    seen = {}
    paths = [arch.producers(layer, Space.FFN)[-1].path for layer in range(3)]
    capture_outputs(model, arch, paths, batches(), lambda path, x: seen.setdefault(path, []).append(x))
    features = [torch.cat(seen[path]).numpy() for path in paths]
    f = arch.widths[Space.FFN]
    expected = np.corrcoef(features[anchor], features[member], rowvar=False)[:f, f:]

    alignments = collect_alignments(model, arch, [range(1, 3)], "first", batches())
    np.testing.assert_allclose(alignments.correlation(anchor, member), expected, atol=EXACT)
    _, columns = linear_sum_assignment(expected, maximize=True)
    assert alignments.permutation(anchor, member).tolist() == columns.tolist()


def test_features_are_what_stands_before_the_nonlinearity():
    """`up_proj`'s output in a gated FFN: the gate's weights have no say."""
    model = build("llama")
    arch = architecture_of(model)
    before = collect_alignments(model, arch, [range(0, 2)], "first", batches()).correlation(0, 1)
    # Layer 1 is the last that is watched, so its gate cannot reach what is watched through the stream either.
    torch.nn.init.normal_(model.model.layers[1].mlp.gate_proj.weight)
    after = collect_alignments(model, arch, [range(0, 2)], "first", batches()).correlation(0, 1)
    assert torch.equal(before, after)


def test_a_constant_feature_correlates_with_nothing():
    model = build("opt")
    arch = architecture_of(model)
    with torch.no_grad():
        model.model.decoder.layers[1].fc1.weight[5] = 0
        model.model.decoder.layers[1].fc1.bias[5] = 0.5
    correlation = collect_alignments(model, arch, [range(0, 2)], "first", batches()).correlation(0, 1)
    assert correlation[:, 5].abs().max() < 1e-6
    assert correlation.isfinite().all()


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_permuted_copies_are_recognised(family):
    model, arch, orders = permuted_copies(family)
    alignments = collect_alignments(model, arch, [range(1, 4)], "first", batches())
    for layer, order in orders.items():
        assert torch.equal(order[alignments.permutation(1, layer)], torch.arange(arch.widths[Space.FFN]))


@pytest.mark.parametrize(
    ("anchor", "pairs"),
    [
        ("first", {(0, 1), (0, 2), (1, 2), (1, 3)}),
        ("middle", {(0, 1), (1, 2), (2, 3)}),
        ("last", {(0, 2), (1, 2), (1, 3), (2, 3)}),
    ],
)
def test_the_pairs_of_the_windows_are_collected_and_no_more(anchor, pairs):
    model = build("llama")
    windows = [range(0, 3), range(1, 4)]
    alignments = collect_alignments(model, architecture_of(model), windows, anchor, batches(16))
    assert set(alignments.moments) == pairs


@pytest.mark.parametrize("anchor", ["first", "middle", "last"])
def test_neighbours_say_how_all_members_are_aligned(anchor):
    model, arch, orders = permuted_copies("llama")
    window = range(1, 4)
    alignments = collect_alignments(model, arch, [range(0, 3), window], anchor, batches(), chained=True)
    assert set(alignments.moments) == {(0, 1), (1, 2), (2, 3)}
    chosen = anchor_of(window, anchor)
    units = {layer: orders.get(layer, torch.arange(arch.widths[Space.FFN])) for layer in window}
    found = alignments.permutations(window, chosen)
    assert set(found) == set(window) - {chosen}
    for layer, order in found.items():
        assert torch.equal(units[layer][order], units[chosen])


def test_anchors():
    assert [anchor_of(range(3, 8), anchor) for anchor in ("first", "middle", "last")] == [3, 5, 7]


def test_padding_is_not_seen():
    model = build("llama")
    arch = architecture_of(model)
    found = [collect_alignments(model, arch, [range(1, 3)], "first", padded(batches(), filler)) for filler in (5, 60)]
    assert found[0].moments[1, 2].num_tokens == 96 * 16
    torch.testing.assert_close(found[0].correlation(1, 2), found[1].correlation(1, 2), rtol=EXACT, atol=EXACT)


def test_batches_seen_apart_add_up_to_all_of_them():
    model = build("llama")
    arch = architecture_of(model)
    whole, first, second = (
        collect_alignments(model, arch, [range(1, 3)], "first", data).moments[1, 2]
        for data in (batches(), batches()[:5], batches()[5:])
    )
    first.merge(second)
    torch.testing.assert_close(first.state(), whole.state(), rtol=EXACT, atol=EXACT)
