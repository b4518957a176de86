"""What holds the same information twice goes without loss."""

import pytest
import torch

import neuromeld.units.compensation as compensation
import neuromeld.units.merges as merges
from contract.families import build
from neuromeld.archs.spec import Space
from neuromeld.model.surgery import read_matrix, write_matrix
from neuromeld.planning.plan import architecture_of
from unit.stages.models import logits
from unit.units.models import EXACT, GROUPED, hide_copies, narrow

GATED_AND_PLAIN = ["llama", "llama-biased", "opt", "gpt2"]
"""Gated without and with biases, plain ReLU with biases, plain GELU as Conv1D with biases."""


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def with_copies(family: str, scale: float = 1.0):
    """A model whose second half of hidden neurons copies the first, in another order."""
    model = build(family)
    arch = architecture_of(model)
    half = arch.widths[Space.FFN] // 2
    originals = torch.randperm(half, generator=torch.Generator().manual_seed(3))
    hide_copies(model, arch, torch.arange(half, 2 * half), originals, scale)
    return model, arch, half


@pytest.mark.parametrize("compensate", ["none", "ridge"])
@pytest.mark.parametrize("merge", ["kmeans", "transport"])
@pytest.mark.parametrize("family", GATED_AND_PLAIN)
def test_duplicates_are_merged_without_loss(family, merge, compensate, monkeypatch):
    monkeypatch.setattr(merges, "REGULARISATION", 1e-4)
    model, arch, half = with_copies(family)
    expected = logits(model)
    done = narrow(model, ffn=[half] * arch.num_layers, merge=merge, compensate=compensate)
    assert [entry.kept for entry in done] == [tuple(range(half))] * arch.num_layers
    assert relative(logits(model), expected) < EXACT
    pruned, *_ = with_copies(family)
    narrow(pruned, ffn=[half] * arch.num_layers, compensate="none")
    assert relative(logits(pruned), expected) > 1e-5


@pytest.mark.parametrize("family", ["llama", "llama-biased", "opt"])
def test_ridge_makes_up_for_neurons_that_are_linear_in_those_kept(family, monkeypatch):
    """Copies of another strength: linear where the activation is ReLU, or behind the gate."""
    monkeypatch.setattr(compensation, "FFN_LAMBDAS", (1e-12,))
    model, arch, half = with_copies(family, scale=2.5)
    expected = logits(model)
    done = narrow(model, ffn=[half] * arch.num_layers)
    assert relative(logits(model), expected) < 1e-7
    assert all(entry.fit.error_after < 1e-13 < 1e-7 < entry.fit.error_before for entry in done)


@pytest.mark.parametrize("family", GROUPED)
def test_group_of_heads_that_nothing_reads_goes_without_loss(family):
    """With several query heads a group, per-head norms and biases."""
    model = build(family)
    arch = architecture_of(model)
    channels = arch.widths[Space.HEADS] // 2
    unread = [0, 1, 1, 0]
    for layer, group in enumerate(unread):
        consumer = arch.consumer(layer, Space.HEADS)
        matrix = read_matrix(model, consumer).clone()
        matrix[group * channels : (group + 1) * channels] = 0
        write_matrix(model, consumer, matrix)
    expected = logits(model)
    done = narrow(model, groups=[1] * 4, compensate="none")
    assert [entry.kept for entry in done] == [(1 - group,) for group in unread]
    assert relative(logits(model), expected) < EXACT


def test_group_of_heads_that_is_read_is_missed():
    model = build("llama")
    expected = logits(model)
    narrow(model, groups=[1] * 4, compensate="none")
    assert relative(logits(model), expected) > 1e-2
