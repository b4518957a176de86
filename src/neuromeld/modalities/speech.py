"""Speech and its transcripts, for models such as Whisper."""

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from transformers import AutoProcessor, PretrainedConfig, PreTrainedModel, ProcessorMixin

from neuromeld.archs.spec import Inputs
from neuromeld.checkpoint.source import ModelSource
from neuromeld.data.calibration import Calibration
from neuromeld.data.text import Clip, Split, speech_clips, speech_features
from neuromeld.errors import CheckpointError, UserInputError, naming_failure
from neuromeld.evaluation import mean_loss, word_error_rate
from neuromeld.modalities.examples import Examples, TrainingSet
from neuromeld.modalities.modality import EvaluationData, Measure, Measured, no_seqlen
from neuromeld.modalities.targets import batch_size, decoder_entries, measured_targets, sha256_of
from neuromeld.model.capture import Batch


class Speech:
    """Reads `file:FOLDER`.

    In calibration a recording counts as the positions of the encoder, which are always all of them; in validation, as
    the tokens of its transcript, which are what is predicted.
    """

    name: Inputs = "speech"
    default = None
    data_option = "speech"
    limit_option = "num_examples"
    options = frozenset({"speech", "num_examples"})

    def processor(self, folder: Path) -> ProcessorMixin:
        with naming_failure(f"the processor in {folder} cannot be read"):
            processor: ProcessorMixin = AutoProcessor.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
        if not hasattr(processor, "feature_extractor"):
            raise CheckpointError(
                f"{folder} has a tokenizer but no feature extractor; save both beside the model with "
                "processor.save_pretrained(...)"
            )
        return processor

    def calibration(
        self, settings: Calibration, processor: ProcessorMixin, config: PretrainedConfig, tokens: int
    ) -> Examples:
        clips = _clips(settings, "calibration")
        random.Random(settings.seed).shuffle(clips)
        chosen = clips[: max(2, tokens // config.max_source_positions)]
        return _examples(settings, chosen, "calibration", processor, config)

    def validation(
        self, settings: Calibration, processor: ProcessorMixin, config: PretrainedConfig, most: int
    ) -> Examples:
        clips = _clips(settings, "validation")
        lengths = (len(processor.tokenizer(clip.transcript)["input_ids"]) for clip in clips)
        fitting = sum(total <= most for total in accumulate(lengths))
        return _examples(settings, clips[: max(1, fitting)], "validation", processor, config)

    def training(self, settings: Calibration, processor: ProcessorMixin, config: PretrainedConfig) -> TrainingSet:
        clips = _clips(settings, "calibration")
        return TrainingSet(
            lambda numbers: _batch([clips[number] for number in numbers], processor, config),
            len(clips),
            _batch(clips[:1], processor, config),
            len(clips) * config.max_source_positions,
            str(settings.source),
            sha256_of(_batch([clip], processor, config) for clip in clips),
        )

    def compared(self, source: ModelSource, data: EvaluationData) -> Iterator[Batch]:
        processor, config = self.processor(source.folder), source.config()
        for clip in _recordings(data):
            yield _batch([clip], processor, config)

    def evaluation(self, source: ModelSource, data: EvaluationData, *, progress: bool = False) -> Measure:
        clips = _recordings(data)
        processor = data.processor or self.processor(source.folder)

        def measure(model: PreTrainedModel) -> Measured:
            found = word_error_rate(model, processor, clips, progress=progress)
            size = batch_size(len(clips))
            parts = (clips[start : start + size] for start in range(0, len(clips), size))
            batches = (_batch(part, processor, model.config) for part in parts)
            return measured_targets(found, mean_loss(model, batches), data)

        return measure


def speech_batches(clips: Sequence[Clip], processor: ProcessorMixin, config: PretrainedConfig) -> list[Batch]:
    """Recordings and their transcripts as calibration batches: at least eight where there are as many recordings."""
    size = batch_size(len(clips))
    return [_batch(clips[start : start + size], processor, config) for start in range(0, len(clips), size)]


def _recordings(data: EvaluationData) -> Sequence[Clip]:
    if data.source is None:
        raise UserInputError("there is no usual data to measure this model on: give --speech file:FOLDER")
    return speech_clips(data.source, data.split)[: data.limit]


def _clips(settings: Calibration, split: Split) -> list[Clip]:
    no_seqlen(settings, "the model says how long a recording is")
    if settings.source is None:
        raise UserInputError(
            "a model of speech has no usual calibration data: give --calibration (to recover, --train) file:FOLDER"
        )
    return speech_clips(settings.source, split)


def _examples(
    settings: Calibration,
    clips: Sequence[Clip],
    split: Split,
    processor: ProcessorMixin,
    config: PretrainedConfig,
) -> Examples:
    batches = speech_batches(clips, processor, config)
    num_tokens = len(clips) * config.max_source_positions + sum(int(b["decoder_attention_mask"].sum()) for b in batches)
    check_batch = {name: value[:1] for name, value in batches[0].items()}
    return Examples(batches, check_batch, num_tokens, str(settings.source), split, sha256_of(batches))


def _batch(clips: Sequence[Clip], processor: ProcessorMixin, config: PretrainedConfig) -> Batch:
    targets = [processor.tokenizer(clip.transcript)["input_ids"] for clip in clips]
    entries = decoder_entries([ids[: config.max_target_positions] for ids in targets], config)
    return {"input_features": speech_features(clips, processor, config), **entries}
