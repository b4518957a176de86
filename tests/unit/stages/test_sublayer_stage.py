"""The walk through the layers: what each sees, what is left alone, what does not matter."""

import pytest
import torch

from contract.families import build
from neuromeld.archs.spec import Space
from neuromeld.model.surgery import read_matrix
from neuromeld.planning.plan import architecture_of
from unit.stages.models import batches, logits, padded
from unit.units.models import narrow, one_layer


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("merge", ["none", "transport"])
def test_layers_see_the_network_that_is_narrow_before_them(family, merge):
    """Narrowing two layers at once is narrowing the first, and then the second of the result."""
    at_once, in_turn, alone = (build(family) for _ in range(3))
    arch = architecture_of(alone)
    first, second = one_layer(arch, 0, 12), one_layer(arch, 2, 20)
    narrow(at_once, ffn=[min(pair) for pair in zip(first, second, strict=True)], merge=merge)
    for sizes in (first, second):
        narrow(in_turn, ffn=sizes, merge=merge, arch=arch)
    torch.testing.assert_close(logits(at_once), logits(in_turn), rtol=1e-9, atol=1e-9)
    narrow(alone, ffn=second, merge=merge)
    found, expected = (read_matrix(model, arch.consumer(2, Space.FFN)) for model in (alone, at_once))
    assert (found - expected).norm() / expected.norm() > 1e-3


def test_ffn_sees_the_attention_that_is_narrow_before_it():
    at_once, in_turn, alone = (build("llama") for _ in range(3))
    arch = architecture_of(alone)
    groups, sizes = [1, 2, 2, 2], one_layer(arch, 0, 20)
    narrow(at_once, groups=groups, ffn=sizes)
    narrow(in_turn, groups=groups)
    narrow(in_turn, ffn=sizes, arch=arch)
    torch.testing.assert_close(logits(at_once), logits(in_turn), rtol=1e-9, atol=1e-9)
    narrow(alone, ffn=sizes)
    found, expected = (read_matrix(model, arch.consumer(0, Space.FFN)) for model in (alone, at_once))
    assert (found - expected).norm() / expected.norm() > 1e-3


@pytest.mark.parametrize("merge", ["none", "kmeans"])
def test_every_layer_has_its_size_and_a_whole_one_is_left_alone(merge):
    model = build("llama-biased")
    arch = architecture_of(model)
    untouched = [model.get_submodule(w.path).weight for w in arch.layer_weights(1) if "ffn" in (w.in_, w.out)]
    done = narrow(model, ffn=[24, 40, 8, 1], merge=merge)
    assert [(e.layer, e.before, e.after, len(set(e.kept))) for e in done] == [
        (0, 40, 24, 24),
        (2, 40, 8, 8),
        (3, 40, 1, 1),
    ]
    for layer, size in enumerate((24, 40, 8, 1)):
        mlp = model.model.layers[layer].mlp
        assert [m.weight.shape for m in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)] == [
            (size, 24),
            (size, 24),
            (24, size),
        ]
        assert len(mlp.up_proj.bias) == size
    found = [model.get_submodule(w.path).weight for w in arch.layer_weights(1) if "ffn" in (w.in_, w.out)]
    assert all(a is b for a, b in zip(found, untouched, strict=True))


@pytest.mark.parametrize(
    "options", [{"ffn": [20] * 4, "merge": "transport"}, {"groups": [1] * 4}], ids=["ffn", "heads"]
)
def test_padding_is_not_seen(options):
    results = []
    for filler in (5, 60):
        model = build("llama")
        narrow(model, data=padded(batches(), filler), **options)
        results.append(logits(model))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


def test_same_seed_same_result():
    first, second, other = (build("llama") for _ in range(3))
    for model, seed in ((first, 0), (second, 0), (other, 1)):
        narrow(model, ffn=[20] * 4, selector="random", merge="transport", seed=seed)
    assert torch.equal(logits(first), logits(second))
    assert not torch.equal(logits(first), logits(other))
