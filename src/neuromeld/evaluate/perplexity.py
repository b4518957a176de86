"""Perplexity, with the protocol that makes the number comparable.

Suffixes of tensors: b windows in a batch, s seqlen, v vocabulary.
"""

import math
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track
from transformers import PreTrainedModel

from neuromeld.errors import UserInputError
from neuromeld.evaluate.loss import sum_nll
from neuromeld.evaluate.mode import eval_mode
from neuromeld.text import TokenWindows, check_vocabulary

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
            for logits_sv, targets_s in zip(logits_bsv[:, :-1], ids_bs[:, 1:], strict=True):
                total_nll += sum_nll(logits_sv, targets_s)
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
