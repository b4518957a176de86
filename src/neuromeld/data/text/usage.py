"""Count how often a text uses each token of a vocabulary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from neuromeld.data.mixture import parse_mixture
from neuromeld.data.splits import Document, Split
from neuromeld.data.text.pairs import holds_pairs, text_pairs
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


@lru_cache(maxsize=16)
def token_use(source: str, split: Split, tokenizer: PreTrainedTokenizerBase) -> tuple[TokenUse, ...]:
    """Count the tokens of one split of a text, special tokens apart, for each of the `vocabularies`.

    source  named texts or pairs, `file:PATH`, or a mixture.  Of pairs, sources are split as what a model reads and
            targets as what it writes; of other texts all as both, where these are split in two ways.
    """
    tables = vocabularies(tokenizer)
    read, written = _documents(source, split, tokenizer)
    uses = (
        _count(read, tokenizer, tables[0], as_targets=False),
        _count(written, tokenizer, tables[-1], as_targets=True),
    )
    if len(tables) > 1:
        return uses
    return (TokenUse(uses[0].counts + uses[1].counts, uses[0].words + uses[1].words),)


def vocabularies(tokenizer: Any) -> tuple[Mapping[str, int], ...]:
    """Return the id of every token: of the only vocabulary, or of that of what is read and that of what is written."""
    own: dict[str, int] = tokenizer.get_vocab()
    if not getattr(tokenizer, "separate_vocabs", False):
        return (own,)
    return own, tokenizer.target_encoder | tokenizer.added_tokens_encoder


def splits_in_two_ways(tokenizer: Any) -> bool:
    """Say whether a tokenizer splits what a model writes by rules of its own, as Marian's do."""
    return hasattr(tokenizer, "spm_source") and hasattr(tokenizer, "spm_target")


def _documents(source: str, split: Split, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Document], list[Document]]:
    """Return the texts to split as what a model reads, and those to split as what it writes."""
    read: list[Document] = []
    written: list[Document] = []
    for part in parse_mixture(source):
        if holds_pairs(part.source):
            pairs = text_pairs(part.source, split)
            read += [Document("", text) for text, _ in pairs]
            written += [Document("", text) for _, text in pairs]
        else:
            texts = read_documents(part.source, split, tokenizer)
            read += texts
            written += texts if splits_in_two_ways(tokenizer) else []
    return read, written


def _count(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, ids: Mapping[str, int], *, as_targets: bool
) -> TokenUse:
    counts = np.zeros(max(ids.values()) + 1, dtype=np.int64)
    words = 0
    for texts in text_batches(documents):
        for tokens in encode_texts([text for text, _ in texts], tokenizer, as_targets=as_targets):
            counts += np.bincount(tokens, minlength=len(counts))
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
    tables = [_table(old, new) for old, new in zip(vocabularies(before), vocabularies(after), strict=True)]

    def changed(value: Tensor, table: Tensor) -> Tensor:
        held = value.clamp(min=0, max=len(table) - 1)
        return torch.where(value < 0, value, table.to(value.device)[held])

    return {
        name: changed(value, tables[0 if name == "input_ids" else -1]) if name in OF_TOKENS else value
        for name, value in batch.items()
    }


def _table(before: Mapping[str, int], after: Mapping[str, int]) -> Tensor:
    """Return the id after for every id before, `(vocab,)`."""
    table = torch.zeros(max(before.values()) + 1, dtype=torch.int64)
    for token, old in before.items():
        table[old] = after.get(token, 0)
    return table
