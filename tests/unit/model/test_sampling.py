"""What a model writes, against what transformers generates and against the probabilities."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from neuromeld.errors import NumericsError
from neuromeld.model.sampling import draw, write_tokens


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_tokens_are_drawn_by_their_probabilities():
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0])
    drawn = draw(logits.expand(40_000, 4), seeded())
    shares = drawn.bincount(minlength=4) / len(drawn)
    torch.testing.assert_close(shares, logits.softmax(0), atol=0.01, rtol=0)
    assert shares[2] == 0


def test_a_sure_model_writes_what_it_generates(model):
    with torch.no_grad():
        model.lm_head.weight *= 1e5
    openings = [[3], [5], [7]]
    written = write_tokens(model, openings, 20, seeded())
    expected = model.generate(
        torch.tensor(openings),
        attention_mask=torch.ones(3, 1),
        max_new_tokens=19,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert torch.equal(written, expected)


def test_openings_of_any_length_are_followed_and_the_rest_depends_on_the_seed(model):
    openings = [[1], [2, 3, 4, 5]]
    first, again, other = (write_tokens(model, openings, 12, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    for row, opening in zip(first.tolist(), openings, strict=True):
        assert len(row) == 12
        assert row[: len(opening)] == opening
    assert write_tokens(model, [[1, 2, 3]], 2, seeded()).tolist() == [[1, 2]]


def test_a_model_without_finite_logits_is_refused(model):
    with torch.no_grad():
        model.lm_head.weight[0] = torch.nan
    with pytest.raises(NumericsError, match="so it cannot write text"):
        write_tokens(model, [[1]], 4, seeded())
