"""Text for language models: windows of tokens."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from neuromeld.archs.spec import Inputs
from neuromeld.checkpoint import load_tokenizer
from neuromeld.checkpoint.source import ModelSource
from neuromeld.data.calibration import BATCH_WINDOWS, Calibration
from neuromeld.data.images.captions import holds_captions
from neuromeld.data.text import TokenWindows, check_vocabulary, respelled, token_windows
from neuromeld.errors import UserInputError
from neuromeld.evaluation import Perplexity, bytes_per_token, perplexity
from neuromeld.modalities.captions import caption_examples
from neuromeld.modalities.examples import Examples, TrainingSet
from neuromeld.modalities.modality import EvaluationData, Measure, Measured
from neuromeld.modalities.own_text import OwnText
from neuromeld.modalities.texts import Texts
from neuromeld.model.capture import Batch
from neuromeld.stats.split import HELD_OUT

CHECK_TOKENS = 64

USUAL = "wikipedia-sample:3,python-docs:1"
"""What language models are calibrated on where nothing is said (docs/decisions/0036)."""

TEXT_OPTIONS = frozenset({"text", "tokens", "seqlen"})


class Tokens:
    """Reads the named texts, `file:PATH`, mixtures of them, and with a model at hand what that writes itself.

    Where it has an image tower, a folder of images with captions, too.
    """

    name: Inputs = "tokens"
    default = "wikipedia-sample"
    data_option = "text"
    limit_option = None
    options = TEXT_OPTIONS | {
        *("speed", "batch_size", "prompt_tokens", "new_tokens"),
        *("tasks", "include_path", "limit"),
    }

    def __init__(self, own: OwnText | None = None) -> None:
        self._own = own

    def texts(
        self, settings: Calibration, processor: PreTrainedTokenizerBase, usual: str = "wikipedia-sample"
    ) -> Texts:
        """Return the text that settings name, by split, the usual one where they name none."""
        return Texts(settings, settings.source or usual, processor, self._own)

    def processor(self, folder: Path) -> PreTrainedTokenizerBase:
        return load_tokenizer(folder)

    def _folder(self, settings: Calibration) -> Path:
        """Return the folder of the model, whose processor reads images."""
        if self._own is None:
            raise UserInputError(f"{settings.source} has images, and no model is at hand as a checkpoint to read them")
        return self._own.source.folder

    def calibration(
        self, settings: Calibration, processor: PreTrainedTokenizerBase, config: PretrainedConfig, tokens: int
    ) -> Examples:
        if holds_captions(settings.source):
            return caption_examples(settings, "calibration", self._folder(settings), config, tokens)
        return _examples(self.texts(settings, processor, USUAL).calibration(tokens), config)

    def validation(
        self, settings: Calibration, processor: PreTrainedTokenizerBase, config: PretrainedConfig, most: int
    ) -> Examples:
        if holds_captions(settings.source):
            return caption_examples(settings, "validation", self._folder(settings), config, most)
        return _examples(self.texts(settings, processor, USUAL).validation(most), config)

    def training(
        self, settings: Calibration, processor: PreTrainedTokenizerBase, config: PretrainedConfig
    ) -> TrainingSet:
        windows = self.texts(settings, processor).training()
        found = _examples(windows, config)
        return TrainingSet(
            lambda numbers: {"input_ids": windows.input_ids[list(numbers)]},
            len(windows.input_ids),
            found.check_batch,
            found.num_tokens,
            found.source,
            found.sha256,
        )

    def compared(self, source: ModelSource, data: EvaluationData) -> Iterator[Batch]:
        for ids in evaluation_windows(source, data).input_ids.split(1):
            yield {"input_ids": ids}

    def evaluation(self, source: ModelSource, data: EvaluationData, *, progress: bool = False) -> Measure:
        windows = evaluation_windows(source, data)
        spelled = windows
        if data.processor is not None:
            most = getattr(source.config(), "max_position_embeddings", None)
            spelled = respelled(windows, source.tokenizer(), data.processor, most)

        def measure(model: PreTrainedModel) -> Measured:
            found = perplexity(model, spelled, progress=progress)
            measured = measured_text(found, data)
            if spelled is not windows:
                measured = replace(measured, scores=_per_token_of(windows, found))
            read = bytes_per_token(model, context=data.seqlen)
            return replace(measured, facts={"bytes_per_token": read, **measured.facts})

        return measure


def _per_token_of(windows: TokenWindows, found: Perplexity) -> dict[str, float]:
    """Return the scores of text that was spelled anew: bits per byte, and nats for each token that `windows` predict.

    A perplexity of other tokens would be compared with one of these.
    """
    loss = found.nll * found.tokens / windows.input_ids[:, 1:].numel()
    return {"loss": loss} | ({} if found.bits_per_byte is None else {"bits_per_byte": found.bits_per_byte})


def evaluation_windows(source: ModelSource, data: EvaluationData) -> TokenWindows:
    """Return the token windows that models of text are measured on."""
    windows = token_windows(
        data.source or Tokens.default,
        source.tokenizer(),
        split=data.split,
        num_tokens=data.tokens,
        seqlen=data.seqlen,
    )
    check_vocabulary(windows, source.config().get_text_config().vocab_size)
    return windows


def measured_text(found: Perplexity, data: EvaluationData) -> Measured:
    """Return a perplexity as what was measured."""
    facts = {"top1_accuracy": found.accuracy, "tokens": found.tokens, "protocol": found.protocol}
    bits = {} if found.bits_per_byte is None else {"bits_per_byte": found.bits_per_byte}
    return Measured({"perplexity": found.perplexity} | bits, data.seqlen, facts)


def batches_of(windows: TokenWindows) -> list[Batch]:
    """Token windows as calibration batches: at least eight where there are as many windows."""
    size = min(BATCH_WINDOWS, max(1, len(windows.input_ids) // HELD_OUT))
    return [{"input_ids": ids} for ids in windows.input_ids.split(size)]


def _examples(windows: TokenWindows, config: PretrainedConfig) -> Examples:
    check_vocabulary(windows, config.get_text_config().vocab_size)
    check_batch = {"input_ids": windows.input_ids[:1, :CHECK_TOKENS]}
    return Examples(batches_of(windows), check_batch, windows.num_tokens, windows.source, windows.split, windows.sha256)
