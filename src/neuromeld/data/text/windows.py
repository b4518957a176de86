"""From a text source to token windows of equal length, the form in which calibration and evaluation use text."""

import hashlib
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from neuromeld.data.sources import TEXT_SOURCES
from neuromeld.data.splits import Document, Split
from neuromeld.data.text.files import cut_text, file_documents
from neuromeld.data.text.reading import local_path
from neuromeld.errors import CheckpointError, UserInputError

DOCUMENTS_PER_BATCH = 64

MOST_AT_ONCE = 2**22
"""Characters that are encoded at once: a tokenizer takes a hundred bytes and more for each."""

POOL = 16
"""Windows to calibrate and to choose on are taken from this many times as many tokens, so that they come from many
documents: with those of the few articles that would fill the windows in order, refits overfit (docs/decisions/0004),
and choices hold for these articles (0020)."""


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """`input_ids` is int64, (windows, seqlen); `sha256` is that of its values, little-endian, in row order."""

    input_ids: torch.Tensor
    source: str
    split: Split
    sha256: str

    @property
    def num_tokens(self) -> int:
        """All tokens of all windows."""
        return self.input_ids.numel()


def read_documents(source: str, split: Split, tokenizer: PreTrainedTokenizerBase) -> list[Document]:
    """Return the documents of one split of a named source or of `file:PATH`.

    The tokenizer is for chat templates only.
    """
    if source.startswith("file:"):
        return file_documents(local_path(source), split, tokenizer)
    documents: list[Document] = TEXT_SOURCES[source](split)
    return documents


def token_windows(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    split: Split,
    num_tokens: int | None,
    seqlen: int,
    seed: int | None = None,
) -> TokenWindows:
    """Return `num_tokens // seqlen` windows without overlap of the documents of a split, or all there are for None.

    Documents are tokenised without special tokens and joined by the end-of-sequence token.  Calibration draws its
    windows by `seed`; the other splits take the first ones in the source's order, and a seed is an error there.
    `UserInputError` when the source cannot be read or is too small.
    """
    if (seed is None) == (split == "calibration"):
        raise UserInputError(f"seed={seed} with split={split!r}: calibration needs a seed, the other splits take none")
    if seqlen < 1 or (num_tokens is not None and num_tokens < seqlen):
        raise UserInputError(f"num_tokens={num_tokens} does not fill one window of seqlen={seqlen}; both are in tokens")
    documents = read_documents(source, split, tokenizer)
    draw = random.Random(seed)
    pool = num_tokens
    if split == "calibration":
        documents = draw.sample(documents, len(documents))
        pool = None if num_tokens is None else POOL * num_tokens
    tokens = _joined_tokens(documents, tokenizer, pool)
    num_windows = (len(tokens) if num_tokens is None else num_tokens) // seqlen
    if len(tokens) < max(num_windows, 1) * seqlen:
        raise UserInputError(
            f"the {split} split of {source!r} has {len(tokens)} tokens with this tokenizer, fewer than the "
            f"{max(num_windows, 1) * seqlen} that were asked for; lower num_tokens (or seqlen={seqlen}), "
            "or use a larger source"
        )
    starts = range(len(tokens) // seqlen)
    chosen = draw.sample(starts, num_windows) if split == "calibration" else starts[:num_windows]
    input_ids = tokens[: len(starts) * seqlen].reshape(-1, seqlen)[list(chosen)]
    return _with_digest(input_ids, source, split)


def first_windows(
    source: str, tokenizer: PreTrainedTokenizerBase, *, split: Split, most: int, seqlen: int
) -> TokenWindows:
    """Return the first windows of a split that is not calibration: up to `most` tokens of them, and one at least."""
    available = len(_joined_tokens(read_documents(source, split, tokenizer), tokenizer, most))
    return token_windows(source, tokenizer, split=split, num_tokens=max(seqlen, min(most, available)), seqlen=seqlen)


def spread_windows(
    source: str, tokenizer: PreTrainedTokenizerBase, *, split: Split, most: int, seqlen: int
) -> TokenWindows:
    """Return windows at even distances over a split that is not calibration: up to `most` tokens, and one window at
    least.
    """
    found = first_windows(source, tokenizer, split=split, most=POOL * most, seqlen=seqlen).input_ids
    num = min(len(found), max(1, most // seqlen))
    return _with_digest(found[[i * len(found) // num for i in range(num)]], source, split)


def check_vocabulary(windows: TokenWindows, vocab_size: int) -> None:
    """Raise `UserInputError` when a token id is not one of the `vocab_size` that the model knows."""
    largest = int(windows.input_ids.max())
    if largest >= vocab_size:
        raise UserInputError(
            f"the tokenizer produced the token id {largest}, but the model's vocabulary ends at {vocab_size - 1}: "
            "the tokenizer is not the model's own; pass the one that was saved with it"
        )


def _with_digest(input_ids: torch.Tensor, source: str, split: Split) -> TokenWindows:
    digest = hashlib.sha256(input_ids.numpy().astype("<i8").tobytes()).hexdigest()
    return TokenWindows(input_ids, source, split, digest)


def _joined_tokens(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, num_tokens: int | None
) -> Int64[Tensor, " n"]:
    """At least `num_tokens` tokens from the start of the documents, or all of them where there are fewer."""
    separator = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    tokens = array("q")
    for texts in _batches(documents):
        if num_tokens is not None and len(tokens) >= num_tokens:
            break
        for (_, is_first), ids in zip(texts, _encode([text for text, _ in texts], tokenizer), strict=True):
            tokens.extend(separator if tokens and is_first else [])
            tokens.extend(ids)
    return torch.from_numpy(np.array(tokens, dtype=np.int64))


def _batches(documents: Sequence[Document]) -> Iterator[list[tuple[str, bool]]]:
    """Texts to encode at once, and whether a document begins with each: what that takes is bounded."""
    batch: list[tuple[str, bool]] = []
    for document in documents:
        for number, part in enumerate(cut_text(document.text, MOST_AT_ONCE)):
            if len(batch) == DOCUMENTS_PER_BATCH or sum(len(text) for text, _ in batch) + len(part) > MOST_AT_ONCE:
                yield batch
                batch = []
            batch.append((part, number == 0))
    if batch:
        yield batch


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    try:
        found: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    except Exception as error:  # the tokenizers library raises bare `Exception`
        raise CheckpointError(f"the tokenizer cannot encode this text: {error}") from error
    return found
