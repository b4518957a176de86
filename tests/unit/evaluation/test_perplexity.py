import dataclasses
import math
from importlib import import_module

import pytest
import torch
from tokenizers import Tokenizer, models
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from neuromeld.data.text import mask_tokens
from neuromeld.errors import NumericsError, UserInputError
from neuromeld.evaluation import mean_loss, perplexity, pseudo_perplexity

FLOAT32 = 1e-6


def direct_nll(model, ids):
    """All windows at once, in float64, as the definition has it."""
    logits = model(ids).logits[:, :-1].double()
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_equals_the_definition(family, windows, request):
    model = request.getfixturevalue(family)
    result = perplexity(model, windows)
    assert result.nll == pytest.approx(direct_nll(model, windows.input_ids), rel=FLOAT32)
    assert result.perplexity == math.exp(result.nll)
    assert result.tokens == 7 * 15


def test_a_uniform_model_is_as_perplexed_as_its_vocabulary_is_large(llama, windows):
    llama.model.norm.weight.data.zero_()
    assert perplexity(llama, windows).perplexity == pytest.approx(37, rel=FLOAT32)


@pytest.mark.parametrize("batch_tokens", [1, 32, 48, 112, 1600])
@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_batches_and_blocks_do_not_change_it(batch_tokens, rows, gpt2, windows, monkeypatch):
    monkeypatch.setattr(import_module("neuromeld.model.predictions"), "CHUNK_LOGITS", 37 * rows)
    nll = perplexity(gpt2, windows, batch_tokens=batch_tokens).nll
    assert nll == pytest.approx(direct_nll(gpt2, windows.input_ids), rel=FLOAT32)


def test_the_loss_is_in_float32_although_the_model_is_not(llama, windows):
    model = llama.to(torch.bfloat16)
    result = perplexity(model, windows)
    assert result.nll == pytest.approx(direct_nll(model, windows.input_ids), rel=FLOAT32)
    assert result.protocol["dtype"] == "bfloat16"


def test_the_protocol_stands_beside_the_number(llama, windows):
    protocol = perplexity(llama, windows).protocol
    definition = protocol.pop("definition")
    assert "total negative log-likelihood / predicted tokens" in definition
    assert protocol == {
        "source": "random",
        "split": "evaluation",
        "sha256": "0" * 64,
        "seqlen": 16,
        "windows": 7,
        "dtype": "float32",
        "passes": "own",
        "device": "cpu",
    }


def test_dropout_is_off_and_the_mode_is_given_back(gpt2, windows):
    expected = perplexity(gpt2, windows)
    gpt2.train()
    assert perplexity(gpt2, windows) == expected
    assert gpt2.training


def test_the_mode_is_given_back_after_an_error(gpt2, windows):
    gpt2.train()
    gpt2.transformer.ln_f.weight.data.fill_(float("nan"))
    with pytest.raises(NumericsError):
        perplexity(gpt2, windows)
    assert gpt2.training


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(value, llama, windows):
    llama.lm_head.weight.data[5, 0] = value
    with pytest.raises(NumericsError, match="logits contain NaN or infinity"):
        perplexity(llama, windows)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(2, 1, dtype=torch.int64), "at least 2 tokens"),
        (torch.full((2, 4), 37), "token id 37, but the model's vocabulary ends at 36"),
        (torch.zeros(1, 65, dtype=torch.int64), "seqlen=65 exceeds the model's 64 positions"),
    ],
)
def test_windows_that_do_not_fit_the_model_are_refused(ids, message, llama, windows):
    with pytest.raises(UserInputError, match=message):
        perplexity(llama, dataclasses.replace(windows, input_ids=ids))


@pytest.mark.parametrize("progress", [True, False])
def test_progress_is_on_stderr_when_asked_for(progress, llama, windows, capsys):
    perplexity(llama, windows, progress=progress)
    output = capsys.readouterr()
    assert output.out == ""
    assert ("perplexity" in output.err) == progress


@pytest.fixture
def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertForMaskedLM(BertConfig(vocab_size=37, max_position_embeddings=64, **sizes)).eval()


@pytest.fixture
def masking_tokenizer():
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(37)}, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="w1", sep_token="w2", mask_token="w3")


def test_pseudo_perplexity_is_that_of_the_tokens_that_are_hidden(bert, windows, masking_tokenizer):
    ids = windows.input_ids.clone()
    ids[:, 0], ids[:, -1] = 1, 2
    hidden, labels = mask_tokens(ids, masking_tokenizer, 0)
    expected = F.cross_entropy(bert(hidden).logits.double().flatten(0, 1), labels.flatten(), ignore_index=-100).item()
    result = pseudo_perplexity(bert, windows, masking_tokenizer)
    assert result.nll == pytest.approx(expected, rel=FLOAT32)
    assert result.tokens == (labels != -100).sum() == 7 * 2
    assert "15% of the tokens" in result.protocol["definition"]


def test_a_model_that_predicts_no_next_token_has_neither_perplexity_nor_loss_without_labels(bert, windows):
    with pytest.raises(UserInputError, match="does not predict the next token"):
        perplexity(bert, windows)
    with pytest.raises(UserInputError, match="given as labels"):
        mean_loss(bert, [{"input_ids": windows.input_ids}])
    with pytest.raises(UserInputError, match="BertModel has no loss"):
        mean_loss(bert.bert, [{"input_ids": windows.input_ids, "labels": windows.input_ids}])
