"""Linear CKA against its definition."""

import numpy as np
import pytest
import torch

from contract.families import build
from neuromeld.archs.spec import Space
from neuromeld.errors import UserInputError
from neuromeld.evaluation.similarity import linear_cka, similar_windows, similarity
from neuromeld.model.capture import capture_outputs
from neuromeld.model.surgery import read_bias, read_matrix, share, write_bias, write_matrix
from neuromeld.planning.plan import architecture_of
from neuromeld.stats import PairMoments
from unit.stages.models import EXACT, batches, padded


def cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2", "bloom", "falcon"])
def test_equals_numpy(family):
    model = build(family)
    arch = architecture_of(model)
    found = similarity(model, arch, batches())
    for space, matrix in (("ffn", found.ffn), ("heads", found.attention)):
        seen = {}
        paths = [arch.consumer(layer, space).path for layer in range(arch.num_layers)]
        capture_outputs(
            model, arch, paths, batches(), lambda path, x, seen=seen: seen.setdefault(path, []).append(x.clone())
        )
        outputs = [torch.cat(seen[path]).numpy() for path in paths]
        expected = [[cka(x, y) for x in outputs] for y in outputs]
        np.testing.assert_allclose(matrix, expected, rtol=EXACT)


def test_of_a_tensor_with_its_rotated_copy_is_one():
    x = 5 + torch.randn(200, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    covariances = []
    for a, b in ((x, x @ rotation), (x, x), (x @ rotation, x @ rotation)):
        moments = PairMoments(8, 8)
        moments.update(a, b)
        covariances.append(moments.finalize().cross)
    assert abs(linear_cka(*covariances) - 1) < EXACT


def test_of_sublayers_that_are_rotated_copies_is_one():
    """All FF sublayers the same, their outputs rotated, and read before any of them writes into the stream."""
    model = build("opt")
    arch = architecture_of(model)
    silence(model, arch)
    first = arch.consumer(0, Space.FFN)
    for layer in range(1, arch.num_layers):
        share_inputs(model, arch, layer)
        rotation, _ = torch.linalg.qr(torch.randn(arch.width, arch.width, dtype=torch.float64))
        consumer = arch.consumer(layer, Space.FFN)
        write_matrix(model, consumer, 3 * read_matrix(model, first) @ rotation)
    found = similarity(model, arch, batches())
    torch.testing.assert_close(found.ffn, torch.ones_like(found.ffn), rtol=1e-6, atol=0)
    assert (found.ffn <= 1 + EXACT).all()


def silence(model, arch):
    """Attention writes nothing, and FF sublayers next to nothing: every layer reads the same stream."""
    for layer in range(arch.num_layers):
        for space, scale in (("heads", 0), ("ffn", 1e-9)):
            consumer = arch.consumer(layer, space)
            write_matrix(model, consumer, scale * read_matrix(model, consumer))
            write_bias(model, consumer, 0 * read_bias(model, consumer))


def share_inputs(model, arch, layer):
    (norm, first_norm) = (arch.residual_norms(index)[-1].path for index in (layer, 0))
    (producer,), (first,) = arch.producers(layer, Space.FFN), arch.producers(0, Space.FFN)
    share(model, [first.path, producer.path])
    share(model, [first_norm, norm])


def test_padding_is_not_seen():
    model = build("llama")
    arch = architecture_of(model)
    first, second = (similarity(model, arch, padded(batches(), filler)) for filler in (5, 60))
    torch.testing.assert_close(first.ffn, second.ffn, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(first.attention, second.attention, rtol=EXACT, atol=EXACT)


def test_takes_batches_up_to_the_limit():
    model = build("llama")
    arch = architecture_of(model)
    done = []
    limited = similarity(model, arch, batches(), max_tokens=400, advance=done.append)
    expected = similarity(model, arch, batches()[:3])
    assert torch.equal(limited.ffn, expected.ffn)
    assert done == [1, 2, 3, 4, 5, 6]


def test_no_tokens():
    model = build("llama")
    with pytest.raises(UserInputError, match="has seen no tokens"):
        similarity(model, architecture_of(model), [])


def test_windows_are_ordered_by_the_mean_of_their_pairs():
    matrix = torch.eye(4, dtype=torch.float64)
    for (i, j), value in {(0, 1): 0.2, (0, 2): 0.3, (1, 2): 0.4, (1, 3): 0.9, (2, 3): 0.8, (0, 3): 0.1}.items():
        matrix[i, j] = matrix[j, i] = value
    assert [window for window, _ in similar_windows(matrix, 2)] == [range(2, 4), range(1, 3), range(0, 2)]
    assert similar_windows(matrix, 3) == [(range(1, 4), pytest.approx(0.7)), (range(3), pytest.approx(0.3))]
    assert similar_windows(matrix, 5) == []
