"""What benchmarks share that train a tiny model on real text: documents, a tokenizer, windows, and the training."""

from itertools import chain
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from neuromeld.data.text import TEXT_SOURCES, encode_texts

TOKENS, SEQLEN, WINDOWS, EPOCHS = 4096, 128, 8, 3
END = "<|endoftext|>"

CHARACTERS = 700_000
"""Of each text."""


def documents(source: str, split: str = "calibration", characters: int = CHARACTERS) -> list[str]:
    """The first documents of a split, so many characters of them."""
    found, left = [], characters
    for document in TEXT_SOURCES[source](split):
        if left <= 0:
            break
        found.append(document.text)
        left -= len(document.text)
    return found


def trained_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=TOKENS, special_tokens=[END], initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)


def windows_of(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Windows of tokens, (n, SEQLEN)."""
    ids = torch.tensor(list(chain(*encode_texts(texts, tokenizer))))
    return ids[: len(ids) // SEQLEN * SEQLEN].view(-1, SEQLEN)


def train(model: PreTrainedModel, windows: Tensor, rate: float, **asked: Any) -> float:
    """Train on every window some times, in random order; return the mean loss of the last tenth of the steps.

    asked  further arguments of the model's forward pass
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    batches = [batch for _ in range(EPOCHS) for batch in windows[torch.randperm(len(windows))].split(WINDOWS)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=len(batches), pct_start=0.05)
    curve = []
    for batch in batches:
        loss = model(input_ids=batch, labels=batch, **asked).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        curve.append(loss.item())
    model.eval()
    last = curve[-max(1, len(curve) // 10) :]
    return sum(last) / len(last)
