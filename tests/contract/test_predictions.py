"""Measures of predictions in chunks are those of all logits at once, and so are their gradients."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

from contract.families import FAMILIES, GATED, MIXED, VOCABULARY, batches_for, build, randomise, tokens
from contract.kinds import NO_LOSS
from neuromeld.archs import ARCHITECTURES
from neuromeld.model import predictions as module
from neuromeld.model.capture import model_inputs
from neuromeld.model.predictions import kl, measure_in_chunks, nll, predictions, sum_in_chunks

CAPPED = {"head_dim": 8, "final_logit_softcapping": 2.0}
SPECIAL = {
    "gemma2-capped": lambda: Gemma2ForCausalLM(Gemma2Config(**GATED, **MIXED, **CAPPED)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**GATED, logit_scale=0.3, eos_token_id=1)),
}


def model_of(name: str, seed: int = 0):
    if name in FAMILIES:
        model = build(name, seed=seed)
    else:
        torch.manual_seed(seed)
        model = randomise(SPECIAL[name]().double().eval())
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    return model


def at_once(model, batch):
    """The logits of all that is to be predicted, and the targets, by the model's own forward pass."""
    logits = model(**model_inputs(model, batch)).logits
    if "labels" in batch:
        return logits[batch["labels"] != -100], batch["labels"][batch["labels"] != -100]
    mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
    wanted = mask[:, 1:] & mask[:, :-1]
    return logits[:, :-1][wanted], batch["input_ids"][:, 1:][wanted]


def batch_of(model):
    if model.config.model_type not in ARCHITECTURES:
        return {"input_ids": tokens(2)}
    batch = {name: value[:2] for name, value in batches_for(model, 8)[0].items()}
    if "labels" not in batch:
        mask = torch.ones_like(batch["input_ids"])
        mask[0, -5:] = 0
        batch = batch | {"attention_mask": mask}
    return batch


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", [*(family for family in FAMILIES if family not in NO_LOSS), *SPECIAL])
def test_losses_and_gradients_in_chunks_are_those_of_all_logits(name, monkeypatch):
    check_chunks(name, 7, monkeypatch)


@pytest.mark.parametrize("rows", [1, 1000])
def test_any_size_of_chunks_will_do(rows, monkeypatch):
    check_chunks("llama-tied", rows, monkeypatch)


@pytest.mark.parametrize("name", ["llama-tied", "cohere", "t5"])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_any_size_of_blocks_will_do(name, rows, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_LOGITS", rows * VOCABULARY)
    check_chunks(name, 7, monkeypatch)


def check_chunks(name, rows, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_LOGITS", rows * VOCABULARY)
    model = model_of(name)
    batch = batch_of(model)
    logits, targets = at_once(model, batch)
    expected = F.cross_entropy(logits, targets, reduction="none")
    found = measure_in_chunks(nll, predictions(model, batch))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)

    def weighted(logits, targets):
        return (targets + 1) * nll(logits, targets)

    total, found = expected @ (targets + 1).to(expected), sum_in_chunks(weighted, predictions(model, batch))
    torch.testing.assert_close(found, total, rtol=1e-9, atol=1e-9)
    expected, found = gradients(model, total / 3), gradients(model, found / 3)
    assert found.keys() == expected.keys()
    for path, gradient in expected.items():
        assert (found[path] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-12, path


def test_divergences_are_those_of_all_logits_and_reach_one_model_only(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_LOGITS", 5 * VOCABULARY)
    monkeypatch.setattr(module, "BLOCK_LOGITS", 2 * VOCABULARY)
    model, other = model_of("llama-tied"), model_of("gemma2-capped", seed=1)
    batch = batch_of(model)
    p, q = (F.log_softmax(at_once(one, batch)[0] / 2, dim=-1) for one in (other, model))
    expected = (p.exp() * (p - q)).sum(-1)
    with torch.no_grad():
        teacher = predictions(other, batch)
    found = sum_in_chunks(partial(kl, temperature=2), predictions(model, batch), teacher)
    torch.testing.assert_close(found, expected.sum(), rtol=1e-9, atol=1e-9)
    wanted = gradients(model, expected.sum())
    other.zero_grad()
    for path, gradient in gradients(model, found).items():
        torch.testing.assert_close(gradient, wanted[path], rtol=1e-6, atol=1e-9)
    assert all(p.grad is None for p in other.parameters())


WHERE = [
    ("llama", "lm_head", "model.layers.0"),
    ("opt", "lm_head", "model.decoder.layers.0"),
    ("t5", "lm_head", "encoder.block.0"),
    ("bert", "cls.predictions.decoder", "cls.predictions.transform.dense"),
]


@pytest.mark.parametrize(("name", "head", "layer"), WHERE)
def test_the_head_is_run_in_chunks_and_the_rest_once(name, head, layer, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_LOGITS", 5 * VOCABULARY)
    model = model_of(name)
    rows = []
    model.get_submodule(head).register_forward_hook(lambda *seen: rows.append(seen[-1].numel() // VOCABULARY))
    layers = []
    model.get_submodule(layer).register_forward_hook(lambda *_: layers.append(1))
    found = predictions(model, batch_of(model))
    sum_in_chunks(nll, found).backward()
    assert max(rows) == 5
    assert sum(rows) == len(found) + 1, "logits of the first place, and then each once"
    assert len(layers) == 1
