"""Perplexity, with the protocol that makes the number comparable.

Suffixes of tensors: b windows in a batch, s seqlen, v vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from neuromeld.errors import NumericsError, UserInputError
from neuromeld.evaluate.mode import eval_mode
from neuromeld.text import TokenWindows, check_vocabulary

ROWS_PER_BLOCK = 512
"""Predictions whose logits are held in float32 at once: 100 MB with a vocabulary of 49152."""

DEFINITION = (
    "exp(total negative log-likelihood / predicted tokens); float32 log-softmax; fixed windows without overlap, "
    "the first token of each is context only; no special tokens but the end-of-sequence token between documents"
)


@dataclass(frozen=True)
class Perplexity:
    """`nll` is the mean over the `tokens` predicted tokens, in nats, and `perplexity` its exponential."""

    perplexity: float
    nll: float
    tokens: int
    protocol: dict[str, str | int]


@torch.no_grad()
def perplexity(
    model: PreTrainedModel, windows: TokenWindows, *, batch_size: int = 4, progress: bool = False
) -> Perplexity:
    """The perplexity of a causal language model on token windows; `batch_size` only trades memory for speed.

    `NumericsError` when a logit is NaN or infinite, `UserInputError` when the windows do not fit the model.
    """
    num_windows, seqlen = windows.input_ids.shape
    if seqlen < 2:
        raise UserInputError("perplexity needs windows of at least 2 tokens: the first of each is context only")
    config = model.config.get_text_config(decoder=True)
    check_vocabulary(windows, config.vocab_size)
    positions = getattr(config, "max_position_embeddings", seqlen)
    if seqlen > positions:
        raise UserInputError(f"seqlen={seqlen} exceeds the model's {positions} positions; use windows no longer")
    total_nll = 0.0
    batches = track(
        torch.split(windows.input_ids, batch_size),
        description="perplexity",
        console=Console(stderr=True),
        disable=not progress,
    )
    with eval_mode(model):
        for ids_bs in batches:
            ids_bs = ids_bs.to(model.device)
            logits_bsv = model(input_ids=ids_bs, use_cache=False).logits
            total_nll += _sum_nll(logits_bsv[:, :-1], ids_bs[:, 1:])
    tokens = num_windows * (seqlen - 1)
    nll = total_nll / tokens
    return Perplexity(
        perplexity=math.exp(nll),
        nll=nll,
        tokens=tokens,
        protocol={
            "source": windows.source,
            "split": windows.split,
            "sha256": windows.sha256,
            "seqlen": seqlen,
            "windows": num_windows,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "definition": DEFINITION,
        },
    )


@torch.no_grad()
def mean_loss(model: PreTrainedModel, batches: Sequence[Mapping[str, Tensor]]) -> float:
    """Nats per predicted token on batches of `input_ids` and, where there is padding, `attention_mask`.

    For comparing versions of a model on the way: infinite, not an error, where a logit is not finite.
    """
    total, tokens = 0.0, 0
    with eval_mode(model):
        for batch in batches:
            ids = batch["input_ids"].to(model.device)
            mask = batch.get("attention_mask", torch.ones_like(ids)).to(model.device).bool()
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            wanted = mask[:, 1:] & mask[:, :-1]
            try:
                total += _sum_nll(logits[:, :-1][wanted][None], ids[:, 1:][wanted][None])
            except NumericsError:
                return math.inf
            tokens += int(wanted.sum())
    return total / tokens


def _sum_nll(logits_bsv: Tensor, targets_bs: Tensor) -> float:
    total = 0.0
    for logits_sv, targets_s in zip(logits_bsv, targets_bs, strict=True):
        blocks = zip(torch.split(logits_sv, ROWS_PER_BLOCK), torch.split(targets_s, ROWS_PER_BLOCK), strict=True)
        for logits, targets in blocks:
            logits = logits.float()
            if not torch.isfinite(logits).all():
                raise NumericsError(
                    "the model's logits contain NaN or infinity; in float16 this is usually overflow: "
                    "evaluate in bfloat16 or float32"
                )
            total += F.cross_entropy(logits, targets, reduction="none").double().sum().item()
    return total
