"""Images with captions, for language models with an image tower: a pair is a batch, in the model's chat template."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoProcessor, PretrainedConfig

from neuromeld.data.calibration import Calibration
from neuromeld.data.images.captions import captioned_images
from neuromeld.data.labelled import rgb
from neuromeld.data.listed import ListedFile
from neuromeld.data.splits import Split
from neuromeld.errors import CheckpointError, UserInputError, naming_failure
from neuromeld.modalities.examples import Examples
from neuromeld.modalities.modality import no_seqlen
from neuromeld.modalities.targets import sha256_of
from neuromeld.model.capture import IGNORED, Batch

PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "boi_token_id", "eoi_token_id")
"""Config keys of tokens that stand for an image: what follows from the text is predicted, they are not."""


def caption_examples(
    settings: Calibration, split: Split, folder: Path, config: PretrainedConfig, tokens: int
) -> Examples:
    """Return pairs until they have about so many tokens, those of images counted, in an order drawn by the seed.

    folder  of the model, with its processor

    Raises `CheckpointError` for a processor without images, `UserInputError` for a folder that cannot be read.
    """
    no_seqlen(settings, "an image with its caption is as long as it is")
    pairs = captioned_images(str(settings.source), split)
    random.Random(settings.seed).shuffle(pairs)
    batches, total = [], 0
    for batch in _batches(pairs, _processor(folder), config):
        batches.append(batch)
        total += batch["input_ids"].numel()
        if total >= tokens:
            break
    return Examples(batches, batches[0], total, str(settings.source), split, sha256_of(batches))


def _processor(folder: Path) -> Any:
    with naming_failure(f"the processor in {folder} cannot be read"):
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise CheckpointError(
            f"{folder} has no processor of images and text, which images with captions need: save it beside the model "
            "with processor.save_pretrained(...), or calibrate on text"
        )
    return processor


def _batches(pairs: list[ListedFile], processor: Any, config: PretrainedConfig) -> Iterator[Batch]:
    for pair in pairs:
        with naming_failure(f"the processor of the model fails on {pair.path} and its caption"):
            found = processor(images=[rgb(pair.path)], text=[_said(processor, pair.text)], return_tensors="pt")
        batch = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        yield batch | {"labels": _labels(batch["input_ids"], config)}


def _said(processor: Any, caption: str) -> str:
    """Return the text of a pair: a message of the chat template, or behind the token of an image."""
    if processor.chat_template is None:
        token = getattr(processor, "image_token", None)
        if token is None:
            raise UserInputError("the processor of the model has neither a chat template nor a token for an image")
        return f"{token}\n{caption}"
    content = [{"type": "image"}, {"type": "text", "text": caption}]
    text: str = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    return text


def _labels(ids: Tensor, config: PretrainedConfig) -> Tensor:
    """Return the token behind each, where it is one of the text."""
    standing = [getattr(config, key, None) for key in PLACEHOLDERS]
    labels = torch.full_like(ids, IGNORED)
    labels[:, :-1] = ids[:, 1:]
    placeholder = torch.isin(labels, torch.tensor([token for token in standing if isinstance(token, int)]))
    return labels.masked_fill(placeholder, IGNORED)
