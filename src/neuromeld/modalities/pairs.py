"""Text and the text it becomes, for encoder-decoders."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from neuromeld.archs.spec import Inputs
from neuromeld.checkpoint import load_tokenizer
from neuromeld.checkpoint.source import ModelSource
from neuromeld.data.calibration import Calibration
from neuromeld.data.text import Pair, Split, text_pairs
from neuromeld.errors import UserInputError
from neuromeld.evaluation import mean_loss, translation_quality
from neuromeld.modalities.examples import Examples, TrainingSet
from neuromeld.modalities.modality import EvaluationData, Measure, Measured
from neuromeld.modalities.targets import CONTEXT, batch_size, decoder_entries, measured_targets, padded, sha256_of
from neuromeld.model.capture import Batch


class Pairs:
    """Reads the named sources of pairs and `file:PATH`; tokens of either side count, up to `seqlen` of each."""

    name: Inputs = "pairs"
    default = None
    data_option = "pairs"
    limit_option = "num_examples"
    options = frozenset({"pairs", "num_examples"})

    def processor(self, folder: Path) -> PreTrainedTokenizerBase:
        return load_tokenizer(folder)

    def calibration(
        self, settings: Calibration, processor: PreTrainedTokenizerBase, config: PretrainedConfig, tokens: int
    ) -> Examples:
        pairs = _pairs(settings, "calibration")
        random.Random(settings.seed).shuffle(pairs)
        return _examples(settings, pairs, "calibration", processor, config, tokens)

    def validation(
        self, settings: Calibration, processor: PreTrainedTokenizerBase, config: PretrainedConfig, most: int
    ) -> Examples:
        return _examples(settings, _pairs(settings, "validation"), "validation", processor, config, most)

    def training(
        self, settings: Calibration, processor: PreTrainedTokenizerBase, config: PretrainedConfig
    ) -> TrainingSet:
        encoded, total = _encode(_pairs(settings, "calibration"), processor, settings.seqlen, None)
        return TrainingSet(
            lambda numbers: _batch([encoded[number] for number in numbers], config),
            len(encoded),
            _batch(encoded[:1], config),
            total,
            str(settings.source),
            sha256_of(_batch([pair], config) for pair in encoded),
        )

    def compared(self, source: ModelSource, data: EvaluationData) -> Iterator[Batch]:
        config = source.config()
        pairs = text_pairs(_named(data), data.split)[: data.limit]
        length = min(CONTEXT, getattr(config, "max_position_embeddings", CONTEXT))
        for pair in _encode(pairs, source.tokenizer(), length, None)[0]:
            yield _batch([pair], config)

    def evaluation(self, source: ModelSource, data: EvaluationData, *, progress: bool = False) -> Measure:
        pairs, tokenizer = text_pairs(_named(data), data.split)[: data.limit], data.processor or source.tokenizer()

        def measure(model: PreTrainedModel) -> Measured:
            found = translation_quality(model, tokenizer, pairs, progress=progress)
            length = min(CONTEXT, getattr(model.config, "max_position_embeddings", CONTEXT))
            encoded, _ = _encode(pairs, tokenizer, length, None)
            size = batch_size(len(encoded))
            parts = (encoded[start : start + size] for start in range(0, len(encoded), size))
            return measured_targets(found, mean_loss(model, (_batch(part, model.config) for part in parts)), data)

        return measure


def _named(data: EvaluationData) -> str:
    if data.source is None:
        raise UserInputError(
            "there is no usual data to measure this model on: give --pairs file:PATH, or a named source of pairs"
        )
    return data.source


def _pairs(settings: Calibration, split: Split) -> list[Pair]:
    if settings.source is None:
        raise UserInputError(
            "a model from text to text has no usual calibration data, as its languages are not known here: give "
            "--calibration (to recover, --train), a named source of pairs or file:PATH"
        )
    return text_pairs(settings.source, split)


def _examples(
    settings: Calibration,
    pairs: Sequence[Pair],
    split: Split,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    tokens: int,
) -> Examples:
    encoded, total = _encode(pairs, tokenizer, settings.seqlen, tokens)
    size = batch_size(len(encoded))
    batches = [_batch(encoded[start : start + size], config) for start in range(0, len(encoded), size)]
    check_batch = {name: value[:1] for name, value in batches[0].items()}
    return Examples(batches, check_batch, total, str(settings.source), split, sha256_of(batches))


def _encode(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, length: int, tokens: int | None
) -> tuple[list[tuple[list[int], list[int]]], int]:
    """Token ids of the first pairs, until there are so many tokens, and how many those are; of all for None.

    Each side is cut at `length` tokens.
    """
    encoded: list[tuple[list[int], list[int]]] = []
    total = 0
    for source, target in pairs:
        if tokens is not None and total >= tokens:
            break
        ids = tokenizer(source, truncation=True, max_length=length)["input_ids"]
        wanted = tokenizer(text_target=target, truncation=True, max_length=length)["input_ids"]
        encoded.append((ids, wanted))
        total += len(ids) + len(wanted)
    return encoded, total


def _batch(encoded: Sequence[tuple[list[int], list[int]]], config: PretrainedConfig) -> Batch:
    sources = [ids for ids, _ in encoded]
    return {
        "input_ids": padded(sources, config.pad_token_id or 0),
        "attention_mask": padded([[1] * len(ids) for ids in sources], 0),
        **decoder_entries([wanted for _, wanted in encoded], config),
    }
