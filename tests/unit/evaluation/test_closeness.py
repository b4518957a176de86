"""How close models are to their original: of heads without labels, of embeddings, and of language models."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, LlamaConfig, PreTrainedTokenizerFast

from contract.families import BERT, GATED
from neuromeld import EvaluationRequest, compress, evaluate, parse_recipe
from neuromeld.archs.classes import stock_class
from neuromeld.errors import UserInputError
from neuromeld.evaluation import closeness
from neuromeld.model.predictions import nll

CONFIGS = {
    "BertForSequenceClassification": BertConfig(**BERT, num_labels=3),
    "BertForTokenClassification": BertConfig(**BERT, num_labels=4),
    "BertForQuestionAnswering": BertConfig(**BERT, num_labels=2),
    "BertForMaskedLM": BertConfig(**BERT),
    "BertModel": BertConfig(**BERT),
    "LlamaForSequenceClassification": LlamaConfig(**GATED, num_labels=1),
    "LlamaForCausalLM": LlamaConfig(**GATED),
}


def build(name, seed=0):
    config = CONFIGS[name]
    config.architectures = [name]
    torch.manual_seed(seed)
    model = stock_class(config)._from_config(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def folder_of(model, folder):
    model.save_pretrained(folder)
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(97)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="w90", sep_token="w91", mask_token="w92")
    tokenizer.save_pretrained(folder)
    return str(folder)


def batches(count=6):
    torch.manual_seed(3)
    return [{"input_ids": torch.randint(1, 90, (1, 12))} for _ in range(count)]


PERFECT = {"divergence": 0.0, "agreement": 1.0, "cosine": 1.0, "correlation": 1.0}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_is_as_close_to_itself_as_can_be_and_another_is_not(name):
    model = build(name)
    same, other = closeness(model, model, batches()), closeness(build(name, seed=1), model, batches())
    assert same.rows == other.rows > 0
    assert same.scores.keys() == other.scores.keys()
    for score, value in same.scores.items():
        assert value == pytest.approx(PERFECT[score], abs=1e-6)
        assert abs(other.scores[score] - PERFECT[score]) > 1e-3


@torch.no_grad()
def test_the_divergence_is_the_cross_entropy_above_the_entropy():
    model, original = build("LlamaForCausalLM", seed=1), build("LlamaForCausalLM")
    (batch,) = batches(1)
    mine, theirs = (one(**batch).logits[0] for one in (model, original))
    chances = theirs.softmax(-1)

    def cross(logits):
        each = [nll(logits, torch.full((len(logits),), token)) for token in range(logits.shape[-1])]
        return float((chances * torch.stack(each, dim=-1)).sum(-1).mean())

    found = closeness(model, original, [batch])
    assert found.divergence == pytest.approx(cross(mine) - cross(theirs), rel=1e-4)
    assert found.agreement == pytest.approx(float((mine.argmax(-1) == theirs.argmax(-1)).float().mean()))


def test_padding_does_not_count():
    model, original = build("BertModel", seed=1), build("BertModel")
    (batch,) = batches(1)
    padded = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 5), value=7),
        "attention_mask": torch.tensor([[1] * 12 + [0] * 5]),
    }
    assert closeness(model, original, [padded]).cosine == pytest.approx(
        closeness(model, original, [batch]).cosine, abs=1e-5
    )


def test_what_never_changes_has_no_correlation():
    model, original = build("LlamaForSequenceClassification"), build("LlamaForSequenceClassification")
    torch.nn.init.zeros_(original.score.weight)
    assert closeness(model, original, batches()).correlation is None


def test_models_that_say_other_things_are_refused():
    with pytest.raises(UserInputError, match="embeddings of shape.*logits of shape"):
        closeness(build("BertModel"), build("BertForMaskedLM"), batches())


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "BertModel", "LlamaForSequenceClassification"])
def test_what_has_no_labels_is_compressed_and_compared_from_its_folder(name, text, tmp_path):
    original = folder_of(build(name), tmp_path / "model")
    sizes = {"tokens": 320, "seqlen": 32}
    recipe = parse_recipe({"ffn": {"size": 24}, "calibration": {"source": text, "tokens": 1280, "seqlen": 32}})
    compress(original, recipe, tmp_path / "out")
    asked = [original, str(tmp_path / "out")]
    with pytest.raises(UserInputError, match="does not predict the next token.*--against"):
        evaluate(asked, EvaluationRequest(text=text, **sizes))
    first, second = evaluate(asked, EvaluationRequest(text=text, against=original, **sizes)).values()
    (score,) = {"divergence", "cosine", "correlation"} & first.keys()
    assert first[score] == pytest.approx(PERFECT[score], abs=1e-6)
    assert not math.isclose(second[score], PERFECT[score], abs_tol=1e-6)
    assert second["protocol"]["rows"] == 10
    assert second["parameters"] < first["parameters"]


def test_several_texts_are_not_compared_at_once():
    with pytest.raises(ValueError, match="compares on one text"):
        EvaluationRequest(text="a,b", against="somewhere")
