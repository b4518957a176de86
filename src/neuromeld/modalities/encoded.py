"""Text for encoders: windows in a sentence's frame and, for masked language models, with some tokens hidden."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from neuromeld.archs.spec import Inputs
from neuromeld.checkpoint.source import ModelSource
from neuromeld.data.calibration import Calibration
from neuromeld.data.text import in_frames, mask_tokens
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.evaluation import perplexity, pseudo_perplexity
from neuromeld.evaluation.perplexity import MASKING_SEED
from neuromeld.modalities.examples import Examples, TrainingSet
from neuromeld.modalities.modality import EvaluationData, Measure, Measured
from neuromeld.modalities.tokens import TEXT_OPTIONS, Tokens, evaluation_windows, measured_text
from neuromeld.model.capture import Batch

WINDOWS = Tokens()


@dataclass(frozen=True)
class Encoded:
    """Reads what `Tokens` reads.

    masked  hide some tokens, by the seed of the calibration, and make them the labels
    """

    masked: bool

    default = Tokens.default
    data_option = "text"
    limit_option = None
    options = TEXT_OPTIONS

    @property
    def name(self) -> Inputs:
        return "masked" if self.masked else "sentences"

    def processor(self, folder: Path) -> PreTrainedTokenizerBase:
        return WINDOWS.processor(folder)

    def calibration(
        self, settings: Calibration, processor: PreTrainedTokenizerBase, config: PretrainedConfig, tokens: int
    ) -> Examples:
        windows = WINDOWS.calibration(_named(settings), processor, config, tokens)
        return self._encode(windows, processor, settings.seed)

    def validation(
        self, settings: Calibration, processor: PreTrainedTokenizerBase, config: PretrainedConfig, most: int
    ) -> Examples:
        return self._encode(WINDOWS.validation(_named(settings), processor, config, most), processor, settings.seed)

    def training(
        self, settings: Calibration, processor: PreTrainedTokenizerBase, config: PretrainedConfig
    ) -> TrainingSet:
        del settings, processor
        raise UnsupportedModelError(
            f"{config.model_type} is an encoder of text, which cannot be trained here yet: recovery tuning is for "
            "language models, encoder-decoders and image classifiers"
        )

    def compared(self, source: ModelSource, data: EvaluationData) -> Iterator[Batch]:
        tokenizer = source.tokenizer()
        for number, batch in enumerate(WINDOWS.compared(source, data)):
            yield self._framed(batch, tokenizer, MASKING_SEED + number)

    def evaluation(self, source: ModelSource, data: EvaluationData, *, progress: bool = False) -> Measure:
        if data.processor is not None:
            raise UserInputError(
                "text with gaps has no bits per byte, and what hides in its gaps is other tokens with another "
                "vocabulary: models of it are not compared across vocabularies"
            )
        windows = evaluation_windows(source, data)

        def measure(model: PreTrainedModel) -> Measured:
            if self.masked:
                found = pseudo_perplexity(model, windows, source.tokenizer(), progress=progress)
            else:
                found = perplexity(model, windows, progress=progress)  # refuses it: there is nothing it predicts
            return measured_text(found, data)

        return measure

    def _encode(self, windows: Examples, tokenizer: PreTrainedTokenizerBase, seed: int) -> Examples:
        batches = [self._framed(batch, tokenizer, seed + number) for number, batch in enumerate(windows.batches)]
        digest = hashlib.sha256()
        for batch in batches:
            for value in batch.values():
                digest.update(value.numpy().astype("<i8").tobytes())
        check_batch = {"input_ids": in_frames(windows.check_batch["input_ids"], tokenizer)}
        return replace(windows, batches=batches, check_batch=check_batch, sha256=digest.hexdigest())

    def _framed(self, batch: Batch, tokenizer: PreTrainedTokenizerBase, seed: int) -> Batch:
        ids = in_frames(batch["input_ids"], tokenizer)
        if not self.masked:
            return {"input_ids": ids}
        hidden, labels = mask_tokens(ids, tokenizer, seed)
        return {"input_ids": hidden, "labels": labels}


def _named(settings: Calibration) -> Calibration:
    """Return the settings with the usual text of encoders, of which no mixture was measured, where they name none."""
    return settings.model_copy(update={"source": settings.source or Tokens.default})
