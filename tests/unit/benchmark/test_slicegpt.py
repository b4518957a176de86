"""The SliceGPT form against the published number of its parameters, and against what projecting the stream means."""

import pytest
import torch
from transformers import OPTConfig

from contract.families import VOCABULARY, WIDTH, build, exact_norms, tokens
from neuromeld.benchmark.slicegpt import (
    FAMILIES,
    projection,
    simulate_slicegpt,
    slicegpt_parameters,
    slicegpt_width,
)
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.model.capture import capture_residual_reads
from neuromeld.planning.plan import architecture_of, meta_model


def batches() -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": ids} for ids in tokens(16).split(4)]


def test_opt_125m_at_20_percent_has_the_published_number_of_parameters():
    config = OPTConfig(hidden_size=768, ffn_dim=3072, num_hidden_layers=12, num_attention_heads=12)
    model = meta_model(config)
    assert sum(p.numel() for p in model.parameters()) == 125_239_296
    # int(0.8 * 768), rounded down to a multiple of 8; arXiv:2401.15024, the published code's log.
    assert slicegpt_parameters(model, 608, narrow_head=False) == 147_250_880


def test_parameters_of_a_tiny_form_by_hand():
    config = OPTConfig(vocab_size=10, hidden_size=6, ffn_dim=8, num_hidden_layers=2, num_attention_heads=2,
                       max_position_embeddings=5, word_embed_proj_dim=6)  # fmt: skip
    k = 4
    layer = 3 * (k * 6 + 6) + (6 * k + k) + (k * 8 + 8) + (8 * k + k) + 2 * k * k
    embeddings = (10 + 7) * k  # OPT's positions start at 2
    head = 10 * k + 10
    model = meta_model(config)
    assert slicegpt_parameters(model, k, narrow_head=True) == 2 * layer + embeddings + head
    wider = 2 * (8 + 1 + k + 10)  # 6 - 4 more columns of the last FFN, its shortcut and the head
    assert slicegpt_parameters(model, k, narrow_head=False) == 2 * layer + embeddings + head + wider


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("narrow_head", [True, False])
@torch.no_grad()
def test_at_full_width_it_is_the_model(family, narrow_head):
    model = exact_norms(build(family))
    expected = model(input_ids=tokens(4, seed=2)).logits
    simulate_slicegpt(model, batches(), WIDTH, narrow_head=narrow_head)
    torch.testing.assert_close(model(input_ids=tokens(4, seed=2)).logits, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("family", ["llama-tied", "opt"])
@pytest.mark.parametrize("narrow_head", [True, False])
def test_every_norm_reads_a_stream_of_the_asked_width(family, narrow_head):
    model = build(family)
    arch = architecture_of(model)
    simulate_slicegpt(model, batches(), 9, narrow_head=narrow_head)
    ranks = {}
    capture_residual_reads(
        model, arch, [{"input_ids": tokens(8, seed=3)}], lambda path, x: ranks.update({path: rank(x)})
    )
    *before_layers, last = (ranks[norm.path] for norm in arch.residual_reads)
    assert set(before_layers) == {9}
    assert last == (9 if narrow_head else WIDTH)


def rank(x: torch.Tensor) -> int:
    return int(torch.linalg.matrix_rank(x, rtol=1e-9))


@pytest.mark.parametrize("centred", [True, False])
def test_no_other_projection_of_this_rank_keeps_more(centred):
    generator = torch.Generator().manual_seed(0)
    stream = torch.randn(5, 40, 12, generator=generator, dtype=torch.float64) * torch.linspace(0.1, 2, 12) + 0.3
    rows = stream.flatten(0, 1)
    if centred:
        rows = rows - rows.mean(1, keepdim=True)
    lost = (rows - stream.flatten(0, 1) @ projection([stream], 5, centred=centred)).square().sum()
    best = torch.linalg.svdvals(rows)[5:].square().sum()
    torch.testing.assert_close(lost, best, rtol=1e-9, atol=0)


def test_the_width_is_the_largest_that_fits():
    model = build("llama")
    budget = slicegpt_parameters(model, 15, narrow_head=True)
    assert slicegpt_width(model, budget, narrow_head=True) == 15
    assert slicegpt_width(model, budget - 1, narrow_head=True) == 14
    with pytest.raises(UserInputError, match="at most 10 parameters"):
        slicegpt_width(model, 10, narrow_head=True)
    assert VOCABULARY * WIDTH > 10


def test_other_families_are_refused():
    with pytest.raises(UnsupportedModelError, match="SliceGPT form of granite is not described"):
        slicegpt_parameters(build("granite"), 8, narrow_head=True)
