"""Images for image models: as the model's own processor makes them, with the classes that the model knows."""

import hashlib
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor, BaseImageProcessor, PretrainedConfig, PreTrainedModel

from neuromeld.archs.spec import Inputs
from neuromeld.checkpoint.source import ModelSource
from neuromeld.data.calibration import Calibration
from neuromeld.data.images import LabelledImages, read_images, rgb
from neuromeld.data.labelled import content
from neuromeld.data.text import Split
from neuromeld.errors import CheckpointError, UserInputError, naming_failure
from neuromeld.evaluation import TaskScore, top1_accuracy
from neuromeld.modalities.examples import Examples, TrainingSet
from neuromeld.modalities.modality import EvaluationData, Measure, Measured, no_seqlen
from neuromeld.model.capture import Batch
from neuromeld.model.native.classes import model_class
from neuromeld.runtime.progress import tracked
from neuromeld.stats.split import HELD_OUT

BATCH_IMAGES = 32
"""Images in one batch, at most."""


class Images:
    """Reads the named images and `file:FOLDER`."""

    name: Inputs = "images"
    default = "fashion-mnist"
    data_option = "images"
    limit_option = "num_images"
    options = frozenset({"images", "num_images"})

    def processor(self, folder: Path) -> Any:
        if not (folder / "preprocessor_config.json").is_file():
            raise CheckpointError(
                f"{folder} has no preprocessor_config.json, which says how images become tensors; save it beside the "
                "model with AutoImageProcessor ... .save_pretrained(...)"
            )
        with naming_failure(f"the image processor in {folder} cannot be read"):  # Pillow that is missing, too
            return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)

    def calibration(
        self, settings: Calibration, processor: BaseImageProcessor, config: PretrainedConfig, tokens: int
    ) -> Examples:
        return self._read(settings, processor, config, "calibration", tokens)

    def validation(
        self, settings: Calibration, processor: BaseImageProcessor, config: PretrainedConfig, most: int
    ) -> Examples:
        return self._read(settings, processor, config, "validation", most)

    def training(self, settings: Calibration, processor: BaseImageProcessor, config: PretrainedConfig) -> TrainingSet:
        source, images = self._open(settings, "calibration")
        check_batch, each = _first(images, processor, config)
        digest = hashlib.sha256(sha256_of([check_batch]).encode())  # of the processor, too
        for pixels, label in zip(images.pixels, images.labels, strict=True):
            digest.update(content(pixels) + os.fsencode(images.classes[label]))
        return TrainingSet(
            lambda numbers: image_batch(images, numbers, processor, config),
            len(images.pixels),
            check_batch,
            each * len(images.pixels),
            source,
            digest.hexdigest(),
        )

    def compared(self, source: ModelSource, data: EvaluationData) -> Iterator[Batch]:
        processor, config = self.processor(source.folder), source.config()
        images = read_images(data.source or self.default, data.split)
        for part in chunks(range(len(images.pixels))[: data.limit], BATCH_IMAGES):
            yield {"pixel_values": image_batch(images, part, processor, config)["pixel_values"]}

    def evaluation(self, source: ModelSource, data: EvaluationData, *, progress: bool = False) -> Measure:
        name = data.source or self.default
        processor, config = self.processor(source.folder), source.config()
        images = read_images(name, data.split)
        if known_classes(config, images.classes) is None:
            raise UserInputError(
                f"{source.name} does not tell the classes of {name} apart ({', '.join(images.classes[:5])} ...), so it "
                "has no accuracy there; a classifier does, whose config names those classes, or as many without names"
            )
        _first(images, processor, config)
        numbers = range(len(images.pixels))[: data.limit]

        def measure(model: PreTrainedModel) -> Measured:
            digest = hashlib.sha256()

            def batches() -> Iterator[Batch]:
                parts = chunks(numbers, BATCH_IMAGES)
                for part in tracked(parts, "accuracy", enabled=progress):
                    batch = image_batch(images, part, processor, config)
                    for value in batch.values():
                        digest.update(value.numpy().tobytes())
                    yield {
                        key: value.to(model.dtype) if value.is_floating_point() else value
                        for key, value in batch.items()
                    }

            found = top1_accuracy(model, batches())
            first = image_batch(images, numbers[:1], processor, config)["pixel_values"]
            positions = positions_of(model, first.to(model.device, model.dtype))
            protocol: dict[str, str | int | None] = {
                "metric": "top-1",
                "split": data.split,
                "sha256": digest.hexdigest(),
                "images": len(found.correct),
                "pixels": "x".join(map(str, first.shape[2:])),
                "dtype": str(model.dtype).removeprefix("torch."),
                "device": model.device.type,
            }
            return Measured(
                {"loss": found.nll},
                positions,
                {"tokens_per_image": positions},
                {name: TaskScore(found.accuracy, tuple(map(float, found.correct)), protocol)},
            )

        return measure

    def _read(
        self,
        settings: Calibration,
        processor: BaseImageProcessor,
        config: PretrainedConfig,
        split: Split,
        tokens: int,
    ) -> Examples:
        source, images = self._open(settings, split)
        check_batch, each = _first(images, processor, config)
        num = tokens // each
        numbers = range(len(images.pixels))
        if num < 1 or (split == "calibration" and num > len(numbers)):
            raise UserInputError(
                f"{tokens} tokens are {num} images of {each} tokens each, and the {split} split of {source!r} has "
                f"{len(numbers)}: choose a number of tokens in between"
            )
        chosen = random.Random(settings.seed).sample(numbers, num) if split == "calibration" else list(numbers[:num])
        size = min(BATCH_IMAGES, max(1, len(chosen) // HELD_OUT))
        batches = [image_batch(images, part, processor, config) for part in chunks(chosen, size)]
        return Examples(batches, check_batch, len(chosen) * each, source, split, sha256_of(batches))

    def _open(self, settings: Calibration, split: Split) -> tuple[str, LabelledImages]:
        no_seqlen(settings, "the model says how long an image is")
        source = settings.source or self.default
        return source, read_images(source, split)


def _first(images: LabelledImages, processor: BaseImageProcessor, config: PretrainedConfig) -> tuple[Batch, int]:
    """Return the first image, without its label, and how many positions of the stream an image takes."""
    check_batch = {"pixel_values": image_batch(images, [0], processor, config)["pixel_values"]}
    pixels = check_batch["pixel_values"]
    with naming_failure(
        f"the model does not take images of shape {tuple(pixels.shape[1:])}, as its processor makes them"
    ):
        with torch.device("meta"):
            model = model_class(config)._from_config(config)
        return check_batch, positions_of(model, pixels.to("meta"))


def image_batch(
    images: LabelledImages, chosen: Sequence[int], processor: BaseImageProcessor, config: PretrainedConfig
) -> dict[str, Tensor]:
    """Some images as `pixel_values (batch, 3, height, width)` and, where the model knows their classes, `labels`."""
    with naming_failure("the image processor that lies beside the model cannot make a batch of the images"):
        made = processor(images=[rgb(images.pixels[i]) for i in chosen], return_tensors="pt")
        batch: dict[str, Tensor] = {"pixel_values": made["pixel_values"]}
    classes = known_classes(config, images.classes)
    if classes is not None:
        batch["labels"] = torch.tensor([classes[images.labels[i]] for i in chosen])
    return batch


def chunks(numbers: Sequence[int], size: int) -> list[Sequence[int]]:
    """Runs of `size`, in order."""
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def sha256_of(batches: Iterable[Batch]) -> str:
    """Return the sha256 of all values, in order."""
    digest = hashlib.sha256()
    for batch in batches:
        for value in batch.values():
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def known_classes(config: PretrainedConfig, classes: tuple[str, ...]) -> list[int] | None:
    """Return the model's numbers of a source's classes: by name, or in order where it has as many and no names.

    None for a model that knows other classes, or none.
    """
    by_name = {str(name).lower(): int(number) for name, number in (config.label2id or {}).items()}
    found = [by_name.get(name.lower()) for name in classes]
    if None not in found:
        return [number for number in found if number is not None]
    nameless = all(name == f"label_{number}" for name, number in by_name.items())
    return list(range(len(classes))) if nameless and len(by_name) == len(classes) else None


def positions_of(model: PreTrainedModel, pixel_values: Tensor) -> int:
    """Positions of the residual stream that a model makes of one image: its patches and the tokens beside them."""
    with torch.no_grad():
        found = model(pixel_values=pixel_values, output_hidden_states=True)
    length: int = found.hidden_states[0].shape[1]
    return length
