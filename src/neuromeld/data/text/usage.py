"""Count how often a text uses each token of a vocabulary."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from neuromeld.data.splits import Split
from neuromeld.data.text.windows import encode_texts, read_documents, text_batches
from neuromeld.model.capture import Batch

OF_TOKENS = ("input_ids", "decoder_input_ids", "labels")
"""Entries of a batch that hold token ids."""


@dataclass(frozen=True, eq=False)
class TokenUse:
    """Uses of each token `(vocab,)` in a text, and the words of the text, which white space divides."""

    counts: Int64[np.ndarray, " vocab"]
    words: int

    @property
    def tokens(self) -> int:
        """Return the tokens in all."""
        return int(self.counts.sum())

    @property
    def per_word(self) -> float:
        """Return the tokens of a word, on average."""
        return self.tokens / max(1, self.words)


@lru_cache(maxsize=16)
def token_use(source: str, split: Split, tokenizer: PreTrainedTokenizerBase) -> TokenUse:
    """Count the tokens of one split of a named text or of `file:PATH`, special tokens apart."""
    counts = np.zeros(max(tokenizer.get_vocab().values()) + 1, dtype=np.int64)
    words = 0
    for texts in text_batches(read_documents(source, split, tokenizer)):
        for ids in encode_texts([text for text, _ in texts], tokenizer):
            counts += np.bincount(ids, minlength=len(counts))
        words += sum(len(text.split()) for text, _ in texts)
    return TokenUse(counts, words)


def tokenizer_in(processor: Any) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a processor, which may be one itself."""
    found: PreTrainedTokenizerBase = getattr(processor, "tokenizer", processor)
    return found


def renumbered(batch: Batch, before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase) -> Batch:
    """Return a batch with the ids that `after` has for its tokens; 0 for a token that it has not.

    For comparing two copies of a model: the text is another one where tokens are missing.
    """
    ids = after.get_vocab()
    table = torch.zeros(max(before.get_vocab().values()) + 1, dtype=torch.int64)
    for token, old in before.get_vocab().items():
        table[old] = ids.get(token, 0)

    def changed(value: Tensor) -> Tensor:
        held = value.clamp(min=0, max=len(table) - 1)
        return torch.where(value < 0, value, table[held])

    return {name: changed(value) if name in OF_TOKENS else value for name, value in batch.items()}
