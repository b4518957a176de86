"""Measure the output of an encoder-decoder, by greedy search, against its references."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from neuromeld.data.text import Clip, Pair, speech_features
from neuromeld.errors import UserInputError
from neuromeld.evaluation.mode import eval_mode
from neuromeld.runtime.progress import tracked

BATCH_SIZE = 8
"""Examples generated at once; it changes nothing but time and memory."""

MAX_NEW_TOKENS = 200
"""What is generated for one example at most; half of the decoder's positions, where those are less."""


@dataclass(frozen=True)
class Generated:
    """Scores by name, the texts that they were taken of, and how."""

    scores: dict[str, float]
    hypotheses: list[str]
    protocol: dict[str, str | int]


def translation_quality(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], *, progress: bool = False
) -> Generated:
    """Measure BLEU and chrF of sacrebleu, 0 to 100, over a corpus with one reference a source."""
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise UserInputError("BLEU and chrF need sacrebleu: pip install neuromeld[translation]") from None

    def encode(sources: Sequence[str]) -> dict[str, Any]:
        return dict(tokenizer(list(sources), padding=True, truncation=True, return_tensors="pt"))

    hypotheses = _generate(model, tokenizer, [source for source, _ in pairs], encode, progress)
    references = [[target for _, target in pairs]]
    metrics = {"bleu": BLEU(), "chrf": CHRF()}
    scores = {name: float(metric.corpus_score(hypotheses, references).score) for name, metric in metrics.items()}
    protocol = _protocol(model, len(pairs))
    protocol |= {f"{name}_signature": str(metric.get_signature()) for name, metric in metrics.items()}
    return Generated(scores, hypotheses, protocol)


def word_error_rate(
    model: PreTrainedModel, processor: ProcessorMixin, clips: Sequence[Clip], *, progress: bool = False
) -> Generated:
    """Measure the word errors of jiwer over words of the transcripts, after Whisper's own normalisation of both
    sides.
    """
    try:
        import jiwer
    except ImportError:
        raise UserInputError("the word error rate needs jiwer: pip install neuromeld[speech]") from None

    def encode(part: Sequence[Clip]) -> dict[str, Any]:
        return {"input_features": speech_features(part, processor, model.config)}

    hypotheses = _generate(model, processor.tokenizer, clips, encode, progress)
    english = not getattr(model.generation_config, "is_multilingual", True)
    normalise = EnglishTextNormalizer({}) if english else BasicTextNormalizer()
    references = [normalise(clip.transcript) for clip in clips]
    error = jiwer.wer(references, [normalise(text) for text in hypotheses])
    protocol = _protocol(model, len(clips)) | {
        "words": sum(len(text.split()) for text in references),
        "normaliser": f"Whisper's {'English' if english else 'basic'} one, without its table of spellings",
    }
    return Generated({"word_error_rate": float(error)}, hypotheses, protocol)


@torch.no_grad()
def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Any],
    encode: Callable[[Sequence[Any]], dict[str, Any]],
    progress: bool,
) -> list[str]:
    generate: Any = model.generate
    texts: list[str] = []
    starts = range(0, len(examples), BATCH_SIZE)
    with eval_mode(model):
        for start in tracked(starts, "generating", enabled=progress):
            inputs = {
                name: value.to(model.device, model.dtype if value.is_floating_point() else None)
                for name, value in encode(examples[start : start + BATCH_SIZE]).items()
            }
            ids = generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=_most_tokens(model))
            texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _most_tokens(model: PreTrainedModel) -> int:
    keys = ("max_target_positions", "max_position_embeddings")
    positions = [getattr(model.config, key) for key in keys if hasattr(model.config, key)]
    return min(MAX_NEW_TOKENS, *(size // 2 for size in positions)) if positions else MAX_NEW_TOKENS


def _protocol(model: PreTrainedModel, num_examples: int) -> dict[str, str | int]:
    return {
        "examples": num_examples,
        "decoding": f"greedy, at most {_most_tokens(model)} tokens",
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
    }
