"""How `neuromeld evaluate` measures encoder-decoders: what they make of the evaluation split, by greedy search."""

from typing import Any

from transformers import PreTrainedModel

from neuromeld.checkpoint.source import ModelSource
from neuromeld.cli.wanted import EvalData
from neuromeld.data.text import speech_clips, text_pairs
from neuromeld.errors import UserInputError
from neuromeld.evaluate import (
    Generated,
    TaskScores,
    bytes_on_disk,
    flops_per_token,
    translation_quality,
    unique_parameters,
    word_error_rate,
)
from neuromeld.modalities import READERS

CONTEXT = 512
"""Source and target tokens that operations are counted at."""


def on_pairs(model: PreTrainedModel, source: ModelSource, wanted: EvalData) -> tuple[dict[str, Any], TaskScores]:
    """Size, cost, BLEU and chrF."""
    pairs = text_pairs(_named(wanted, "--pairs file:PATH, or a named source of pairs"), "evaluation")[: wanted.limit]
    found = translation_quality(model, source.tokenizer(), pairs, progress=True)
    return _measured(model, source, wanted, found), {}


def on_speech(model: PreTrainedModel, source: ModelSource, wanted: EvalData) -> tuple[dict[str, Any], TaskScores]:
    """Size, cost and word error rate."""
    clips = speech_clips(_named(wanted, "--speech file:FOLDER"), "evaluation")[: wanted.limit]
    found = word_error_rate(model, READERS["speech"].processor(source.folder), clips, progress=True)
    return _measured(model, source, wanted, found), {}


def _named(wanted: EvalData, options: str) -> str:
    if wanted.data is None:
        raise UserInputError(f"there is no usual data to measure this model on: give {options}")
    return wanted.data


def _measured(model: PreTrainedModel, source: ModelSource, wanted: EvalData, found: Generated) -> dict[str, Any]:
    return {
        "parameters": unique_parameters(model),
        "bytes_on_disk": bytes_on_disk(source.folder),
        "flops_per_token": flops_per_token(model, context=CONTEXT),
        **found.scores,
        "protocol": {"source": wanted.data, "split": "evaluation", "context": CONTEXT} | found.protocol,
    }
