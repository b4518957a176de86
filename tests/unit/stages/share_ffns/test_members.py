"""What a member of a merged window keeps for itself: least squares, of each output and of a rank."""

import pytest
import torch

from neuromeld.archs.spec import Space
from neuromeld.model.native.modeling import attach_member_hooks
from neuromeld.stages.share_ffns import Sharing, share_ffns
from neuromeld.stages.share_ffns.corrections import low_rank, output_gains
from neuromeld.stats import CrossMoments
from unit.stages.models import EXACT, batches, logits, quiet

WINDOW = range(1, 4)


def data(seed=0, n=200, f=7, d=5):
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(n, f, dtype=torch.float64, generator=draw) @ torch.randn(f, f, dtype=torch.float64, generator=draw)
    x = torch.cat([z, torch.ones(n, 1, dtype=torch.float64)], dim=1)
    y = torch.randn(n, d, dtype=torch.float64, generator=draw) + z[:, :d] * 2
    moments = CrossMoments(f + 1, d)
    moments.update(x, y)
    return x, y, moments.finalize(), torch.randn(f + 1, d, dtype=torch.float64, generator=draw)


def test_a_gain_is_the_least_squares_factor_of_its_output():
    x, y, moments, matrix = data()
    written = x @ matrix
    expected = torch.stack([torch.linalg.lstsq(written[:, [c]], y[:, c]).solution[0] for c in range(y.shape[1])])
    torch.testing.assert_close(output_gains(moments, matrix), expected)


def test_an_output_that_writes_nothing_keeps_a_gain_of_one():
    _, _, moments, matrix = data()
    matrix[:, 2] = 0
    assert output_gains(moments, matrix)[2] == 1


@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_leaves_what_the_best_rank_of_the_regression_leaves(rank):
    """Of the least-squares fit, the error of the best rank is the rest of the singular values of what it writes."""
    x, y, moments, matrix = data()
    missing, z = y - x @ matrix, x[:, :-1]
    down, up = low_rank(moments, matrix, rank, 1e-12)
    assert (down.shape, up.shape) == ((7, rank), (rank, 5))
    fitted = z @ torch.linalg.lstsq(z, missing).solution
    rest = torch.linalg.svdvals(fitted)[rank:].square().sum() + (missing - fitted).square().sum()
    torch.testing.assert_close((missing - z @ down @ up).square().sum(), rest)


def test_at_full_rank_it_is_the_ridge_regression():
    x, y, moments, matrix = data()
    missing, z = y - x @ matrix, x[:, :-1]
    gram = z.T @ z / len(z)
    damped = gram + 0.1 * gram.diagonal().mean() * torch.eye(7, dtype=torch.float64)
    down, up = low_rank(moments, matrix, 5, 0.1)
    torch.testing.assert_close(down @ up, torch.linalg.solve(damped, z.T @ missing / len(z)))


@pytest.mark.parametrize("family", ["llama", "llama-biased", "gpt2"])
def test_members_write_what_was_fitted_and_err_less(family):
    model, arch = quiet(family)
    expected = logits(model)
    plain, _ = quiet(family)
    share_ffns(plain, arch, WINDOW, batches())
    merged = share_ffns(model, arch, WINDOW, batches(), Sharing(gain="channel", rank=4))
    assert [member.layer for member in merged.members] == list(WINDOW)
    assert all(member.error_after < 0.9 * member.error_before for member in merged.members)

    paths = [arch.consumer(layer, Space.FFN).path for layer in WINDOW]
    before = logits(model)
    torch.testing.assert_close(before, logits(plain), rtol=EXACT, atol=EXACT)  # until its hooks are attached
    attach_member_hooks(model, {"gains": paths, "low_rank": [[path, 4] for path in paths]})
    assert (logits(model) - expected).norm() < (logits(plain) - expected).norm()

    module, inputs = model.get_submodule(paths[1]), []
    module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    outputs = []
    module.register_forward_hook(lambda _, _args, out: outputs.append(out))
    logits(model)
    z = inputs[0]
    matrix = module.weight if family == "gpt2" else module.weight.T
    shared = z @ matrix + (0 if module.bias is None else module.bias)
    written = shared * module.gain + z @ module.down.weight.T @ module.up.weight.T
    torch.testing.assert_close(outputs[0], written)
