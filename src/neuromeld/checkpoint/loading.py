"""How to load a checkpoint, told by its record: for the model card and the report."""

from collections.abc import Mapping
from typing import Any

from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

from neuromeld.checkpoint.portable import NATIVE_NEEDS, STOCK_NEEDS
from neuromeld.model.native.classes import auto_class, has_auto_class
from neuromeld.model.native.modeling import PREFIX

PIPELINES = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForImageTextToText": "image-text-to-text",
    "AutoModelForSeq2SeqLM": "text2text-generation",
    "AutoModelForSpeechSeq2Seq": "automatic-speech-recognition",
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModel": "feature-extraction",
    "AutoModelForPreTraining": "feature-extraction",
}
"""The hub's name of what a model does, by the auto class that finds it."""


def auto_classes(model: PreTrainedModel, processor: Any) -> dict[str, str]:
    """Return the entries of a record that say what loads a model and its processor, and in which transformers.

    That is the class of the model where no auto class finds it.
    """
    found = "AutoProcessor"
    if isinstance(processor, PreTrainedTokenizerBase):
        found = "AutoTokenizer"
    elif isinstance(processor, BaseImageProcessor):
        found = "AutoImageProcessor"
    needs = NATIVE_NEEDS if type(model).__name__.startswith(PREFIX) else STOCK_NEEDS
    return {
        "auto_class": (auto_class(type(model)) if has_auto_class(type(model)) else type(model)).__name__,
        "auto_processor": found,
        "requires": f"transformers>={needs}",
    }


def pipeline(record: Mapping[str, Any]) -> str:
    """Return the pipeline of the model; records from before other models than text were written do not say."""
    return PIPELINES.get(record.get("auto_class", "AutoModelForCausalLM"), PIPELINES["AutoModel"])


def load_lines(record: Mapping[str, Any]) -> str:
    """Return the Python lines that load model and processor."""
    model = record.get("auto_class", "AutoModelForCausalLM")
    processor = record.get("auto_processor", "AutoTokenizer")
    name = "tokenizer" if processor == "AutoTokenizer" else "processor"
    folder = '"path/to/this/folder"'
    imported = ", ".join(sorted([model, processor]))
    return (
        f"from transformers import {imported}\n\n"
        f'model = {model}.from_pretrained({folder}, dtype="auto")\n'
        f"{name} = {processor}.from_pretrained({folder})\n"
    )
