"""The summary of a plan against sums over the plan itself."""

import pytest
import torch

from neuromeld.transport import summarise_plan


@pytest.mark.parametrize(("d", "k"), [(96, 48), (50, 30), (7, 3), (24, 24)])
def test_blocks_are_mean_shares(d, k):
    generator = torch.Generator().manual_seed(d)
    plan = torch.rand(d, k, generator=generator, dtype=torch.float64)
    found = summarise_plan(plan, torch.arange(k))
    blocks = torch.tensor(found.blocks)
    assert blocks.shape == (min(d, 24), min(k, 24))
    torch.testing.assert_close(blocks.sum(1), torch.ones(len(blocks)), atol=24 * 5e-5, rtol=0)
    if d == 96:
        shares = plan / plan.sum(1, keepdim=True)
        expected = shares.view(24, 4, 24, 2).mean(1).sum(2)
        torch.testing.assert_close(blocks.double(), expected, atol=5e-5, rtol=0)


def test_the_neurons_that_merged_most_are_named():
    plan = torch.tensor([[9.0, 1, 0], [0, 8, 2], [6, 0, 4], [0, 0, 3], [1, 0, 0]], dtype=torch.float64)
    found = summarise_plan(plan, torch.tensor([0, 1, 3]))
    assert found.merged == [(4, 0, 1.0), (2, 0, 0.6)]
    assert summarise_plan(torch.eye(3, dtype=torch.float64), torch.arange(3)).merged == []
