"""How `neuromeld evaluate` measures models that read something else than text, by what they read."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import track
from transformers import PreTrainedModel

from neuromeld.archs.spec import Inputs
from neuromeld.checkpoint.source import ModelSource
from neuromeld.cli.generated import on_pairs, on_speech
from neuromeld.cli.wanted import EvalData
from neuromeld.data.images import read_images
from neuromeld.errors import UserInputError
from neuromeld.evaluate import TaskScore, TaskScores, bytes_on_disk, flops_per_token, top1_accuracy, unique_parameters
from neuromeld.modalities import Images
from neuromeld.modalities.images import chunks, image_batch, known_classes, positions_of
from neuromeld.model.capture import Batch

BATCH_IMAGES = 32


def on_images(model: PreTrainedModel, source: ModelSource, wanted: EvalData) -> tuple[dict[str, Any], TaskScores]:
    """Size, cost and loss of an image classifier, and its answers under the name of the data."""
    reader = Images()
    name = wanted.data or reader.default
    processor, config = reader.processor(source.folder), model.config
    images = read_images(name, "evaluation")
    if known_classes(config, images.classes) is None:
        raise UserInputError(
            f"{source.name} does not tell the classes of {name} apart ({', '.join(images.classes[:5])} ...), so it has "
            "no accuracy there; a classifier does, whose config names those classes, or as many without names"
        )
    numbers = range(len(images.pixels))[: wanted.limit]
    digest = hashlib.sha256()

    def batches() -> Iterator[Batch]:
        parts: Sequence[Sequence[int]] = chunks(numbers, BATCH_IMAGES)
        for part in track(parts, "accuracy", console=Console(stderr=True)):
            batch = image_batch(images, part, processor, config)
            for value in batch.values():
                digest.update(value.numpy().tobytes())
            yield {key: value.to(model.dtype) if value.is_floating_point() else value for key, value in batch.items()}

    found = top1_accuracy(model, batches())
    first = image_batch(images, numbers[:1], processor, config)["pixel_values"]
    positions = positions_of(model, first.to(model.device, model.dtype))
    protocol: dict[str, str | int | None] = {
        "metric": "top-1",
        "split": "evaluation",
        "sha256": digest.hexdigest(),
        "images": len(found.correct),
        "pixels": "x".join(map(str, first.shape[2:])),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
    }
    measured = {
        "parameters": unique_parameters(model),
        "bytes_on_disk": bytes_on_disk(source.folder),
        "flops_per_token": flops_per_token(model, context=positions),
        "tokens_per_image": positions,
        "loss": found.nll,
    }
    return measured, {name: TaskScore(found.accuracy, tuple(map(float, found.correct)), protocol)}


Measure = Callable[[PreTrainedModel, ModelSource, EvalData], tuple[dict[str, Any], TaskScores]]

MEASURES: dict[Inputs, Measure] = {"images": on_images, "pairs": on_pairs, "speech": on_speech}
