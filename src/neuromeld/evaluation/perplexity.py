"""Perplexity, with the protocol that makes the number comparable.

Suffixes of tensors: b windows in a batch, s seqlen.
"""

import math
import sys
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from neuromeld.data.text import MASKED_RATIO, TokenWindows, check_vocabulary, in_frames, mask_tokens
from neuromeld.errors import UserInputError
from neuromeld.evaluation.loss import nll_and_correct, total
from neuromeld.evaluation.mode import eval_mode
from neuromeld.model.capture import Batch
from neuromeld.model.passes import current_passes
from neuromeld.model.predictions import measure_in_chunks, predictions
from neuromeld.runtime.progress import tracked
from neuromeld.runtime.streaming import device_of

DEFINITION = (
    "exp(total negative log-likelihood / predicted tokens); float32 log-softmax; fixed windows without overlap, "
    "the first token of each is context only; no special tokens but the end-of-sequence token between documents"
)

MASKING_SEED = 0

LARGEST = math.log(sys.float_info.max)
"""Nats whose exponential a number can hold."""

BATCH_TOKENS = 2048
"""Tokens of a forward pass, at least a window."""

PSEUDO_DEFINITION = (
    "exp(total negative log-likelihood / hidden tokens); float32 log-softmax; fixed windows without overlap in the "
    f"tokenizer's frame of a sentence; {MASKED_RATIO:.0%} of the tokens of each, drawn by seed {MASKING_SEED}, never "
    "special ones, are hidden at once behind the mask token"
)


@dataclass(frozen=True)
class Perplexity:
    """`nll` is the mean over the `tokens` predicted tokens, in nats, and `perplexity` its exponential.

    accuracy       the share of these tokens that were the likeliest
    bits_per_byte  the whole likelihood over the bytes of the text that was predicted, which other tokenizers do not
                   change; None where these are not known
    """

    perplexity: float
    nll: float
    accuracy: float
    tokens: int
    bits_per_byte: float | None
    protocol: dict[str, str | int]


@torch.no_grad()
def perplexity(
    model: PreTrainedModel, windows: TokenWindows, *, batch_tokens: int = BATCH_TOKENS, progress: bool = False
) -> Perplexity:
    """Measure the perplexity of a causal language model on token windows; `batch_tokens` only trades memory for speed.

    `NumericsError` when a logit is NaN or infinite, `UserInputError` when the windows do not fit the model, and for a
    model that does not predict the next token.
    """
    if windows.input_ids.shape[1] < 2:
        raise UserInputError("perplexity needs windows of at least 2 tokens: the first of each is context only")
    if not model.can_generate():
        raise UserInputError(
            f"{type(model).__name__} does not predict the next token, so it has no perplexity; "
            "compare it with its original (--against MODEL)"
        )
    _check_fit(model, windows)
    sums = _sums(model, _batches(windows, batch_tokens), progress=progress)
    num_bytes = None if windows.num_bytes is None else int(windows.num_bytes[:, 1:].sum())
    return _result(model, windows, sums, DEFINITION, num_bytes)


def _batches(windows: TokenWindows, batch_tokens: int) -> list[Batch]:
    """Return the windows as batches, with a mask where they are padded."""
    size = max(1, batch_tokens // windows.input_ids.shape[1])
    ids = windows.input_ids.split(size)
    if windows.attention_mask is None:
        return [{"input_ids": part} for part in ids]
    masks = windows.attention_mask.split(size)
    return [{"input_ids": part, "attention_mask": mask} for part, mask in zip(ids, masks, strict=True)]


@torch.no_grad()
def pseudo_perplexity(
    model: PreTrainedModel,
    windows: TokenWindows,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool = False,
) -> Perplexity:
    """Measure what stands for the perplexity of a masked language model; raises as `perplexity` does."""
    _check_fit(model, windows)
    hidden_ns, labels_ns = mask_tokens(in_frames(windows.input_ids, tokenizer), tokenizer, MASKING_SEED)
    size = max(1, batch_tokens // windows.input_ids.shape[1])
    pairs = zip(hidden_ns.split(size), labels_ns.split(size), strict=True)
    batches: list[Batch] = [{"input_ids": ids_bs, "labels": labels_bs} for ids_bs, labels_bs in pairs]
    return _result(model, windows, _sums(model, batches, progress=progress), PSEUDO_DEFINITION)


def _sums(model: PreTrainedModel, batches: list[Batch], *, progress: bool) -> tuple[float, int, int]:
    """Return the nats of all predictions, how many are right, and how many there are."""
    nats, right, number = 0.0, 0, 0
    with eval_mode(model):
        for batch in tracked(batches, "perplexity", enabled=progress):
            nll_n, correct_n = measure_in_chunks(nll_and_correct, predictions(model, batch)).unbind(1)
            nats, right, number = nats + total(nll_n), right + int(correct_n.sum()), number + len(nll_n)
    return nats, right, number


def _check_fit(model: PreTrainedModel, windows: TokenWindows) -> None:
    config = model.config.get_text_config(decoder=True)
    check_vocabulary(windows, config.vocab_size)
    seqlen = windows.input_ids.shape[1]
    positions = getattr(config, "max_position_embeddings", seqlen)
    if seqlen > positions:
        raise UserInputError(f"seqlen={seqlen} exceeds the model's {positions} positions; use windows no longer")


def _result(
    model: PreTrainedModel,
    windows: TokenWindows,
    sums: tuple[float, int, int],
    definition: str,
    num_bytes: int | None = None,
) -> Perplexity:
    num_windows, seqlen = windows.input_ids.shape
    nats, right, tokens = sums
    nll = nats / tokens
    return Perplexity(
        perplexity=math.exp(nll) if nll < LARGEST else math.inf,
        nll=nll,
        accuracy=right / tokens,
        tokens=tokens,
        bits_per_byte=nats / math.log(2) / num_bytes if num_bytes else None,
        protocol={
            "source": windows.source,
            "split": windows.split,
            "sha256": windows.sha256,
            "seqlen": seqlen,
            "windows": num_windows,
            "dtype": str(model.dtype).removeprefix("torch."),
            "passes": current_passes(),
            "device": device_of(model).type,
            "definition": definition,
        },
    )
