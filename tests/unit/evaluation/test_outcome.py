"""A look before and after: the numbers are those of `perplexity`, the samples the likeliest tokens."""

import hashlib

import pytest
import torch

from contract.families import build
from neuromeld.data.text import TokenWindows
from neuromeld.evaluation import Outcome, perplexity
from neuromeld.evaluation.outcome import continuations


class Words:
    """The tokenizer of these tests: a token is its number."""

    def batch_decode(self, ids):
        return [" ".join(map(str, row)) for row in ids.tolist()]


@pytest.fixture
def windows():
    ids = torch.randint(2, 90, (12, 20), generator=torch.Generator().manual_seed(3))
    return TokenWindows(ids, "words", "evaluation", hashlib.sha256(ids.numpy().tobytes()).hexdigest())


def test_record_has_both_models_side_by_side(windows):
    old, new = build("llama", dtype=torch.float32), build("llama", dtype=torch.float32, seed=1)
    words = Words()
    outcome = Outcome(words, windows)
    outcome.before(old)
    found = outcome.after(new, words)
    (measured,) = found["evaluation"]
    assert measured["perplexity_before"] == perplexity(old, windows).perplexity
    assert measured["perplexity"] == perplexity(new, windows).perplexity
    assert measured["protocol"]["sha256"] == windows.sha256
    assert [s["prompt"] for s in found["samples"]] == Words().batch_decode(windows.input_ids[[0, 4, 8], :10])
    for sample in found["samples"]:
        for model, written in ((old, sample["before"]), (new, sample["after"])):
            assert written == Words().batch_decode(likeliest(model, sample["prompt"], 10))[0]


@torch.no_grad()
def likeliest(model, prompt, num_tokens):
    """One token at a time, without a cache."""
    ids = torch.tensor([[int(word) for word in prompt.split()]])
    start = ids.shape[1]
    for _ in range(num_tokens):
        ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return ids[:, start:]


def test_no_token_ends_a_continuation(windows):
    model = build("llama", dtype=torch.float32)
    first = continuations(model, windows.input_ids[:2, :8], 6)
    model.generation_config.eos_token_id = int(first[0, 1])
    assert torch.equal(continuations(model, windows.input_ids[:2, :8], 6), first)


def test_a_model_that_is_broken_before_is_not_compared(windows):
    model = build("llama", dtype=torch.float32)
    outcome = Outcome(Words(), windows)
    with torch.no_grad():
        model.lm_head.weight[3, 0] = torch.nan
    outcome.before(model)
    assert outcome.after(build("llama", dtype=torch.float32), Words()) == {}
