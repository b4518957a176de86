"""What an evaluation may be asked for, and that every kind of input answers for its own options."""

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from neuromeld import EvaluationRequest, UserInputError, evaluate
from neuromeld.modalities import MODALITIES
from neuromeld.modalities.compare import ANY_MODEL

FIELDS = set(EvaluationRequest.model_fields)


def test_every_option_means_something_to_some_kind_of_input_and_no_kind_names_another():
    assert ANY_MODEL.union(*(modality.options for modality in MODALITIES.values())) == FIELDS
    for kind, modality in MODALITIES.items():
        assert modality.name == kind
        assert modality.data_option in modality.options
        assert modality.limit_option is None or modality.limit_option in modality.options


@pytest.mark.parametrize("kind", MODALITIES)
def test_the_data_is_that_of_the_kind(kind):
    modality = MODALITIES[kind]
    given = {"num_images": 3, "num_examples": 5, "tokens": 64, "seqlen": 32}
    (data,) = EvaluationRequest(**given, **{modality.data_option: "mine"}).data(modality)
    assert (data.source, data.tokens, data.seqlen) == ("mine", 64, 32)
    assert data.limit == given.get(modality.limit_option)


MISTAKES = {
    "are for --tasks": {"limit": 3},
    "are for --speed": {"batch_size": 2},
    "greater than or equal to 2": {"tokens": 1},
    "each text is measured by itself, so a has no weight; leave :2 out": {"text": "a:2,b"},
    "a is named twice": {"text": "a,b,a"},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_options_that_do_not_go_together_are_refused(message):
    with pytest.raises(ValidationError, match=message):
        EvaluationRequest(**MISTAKES[message])


def test_several_texts_are_measured_each_as_if_alone(checkpoint, text, tmp_path):
    (tmp_path / "other.jsonl").write_text(Path(text.removeprefix("file:")).read_text().replace("w", "w1"))
    texts, sizes = [text, f"file:{tmp_path / 'other.jsonl'}"], {"tokens": 320, "seqlen": 32}
    both = evaluate([checkpoint], EvaluationRequest(text=",".join(texts), **sizes))[str(checkpoint)]
    for name, found in zip(texts, both["texts"], strict=True):
        alone = evaluate([str(checkpoint)], EvaluationRequest(text=name, **sizes))[str(checkpoint)]
        assert found == {"loss": math.log(alone["perplexity"])} | {key: alone[key] for key in found if key != "loss"}
        assert found["protocol"]["source"] == name
    assert both["perplexity"] == both["texts"][0]["perplexity"] != both["texts"][1]["perplexity"]


def test_tasks_are_separated_by_commas():
    assert EvaluationRequest(tasks="a, b").tasks == ("a", "b") == EvaluationRequest(tasks=("a", "b")).tasks


def test_something_must_be_named():
    with pytest.raises(UserInputError, match="at least one model"):
        evaluate([])


@pytest.mark.parametrize("option", sorted(FIELDS - ANY_MODEL - MODALITIES["tokens"].options))
def test_what_means_nothing_to_a_model_is_refused_before_anything_is_read(option, checkpoint):
    given = {option: 3 if option.startswith("num_") else "nowhere"}
    with pytest.raises(UserInputError, match=f"--{option.replace('_', '-')} is for models that read .*reads tokens"):
        evaluate([str(checkpoint)], EvaluationRequest(text="nowhere", **given))
