"""From a text source to token windows of equal length, the form in which calibration and evaluation use text."""

import hashlib
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from neuromeld.data.mixture import OWN, parse_mixture
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


WIDER = (0x80, 0x800, 0x10000)
"""The characters from which on UTF-8 takes a byte more."""


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """`input_ids` is int64, (windows, seqlen); `sha256` is that of its values, little-endian, in row order.

    num_bytes  of the text that each token stands for, in UTF-8, (windows, seqlen); None where the tokenizer does not
               say where in the text its tokens are
    attention_mask  0 where a window is padded at its end, (windows, seqlen); None where none is
    """

    input_ids: torch.Tensor
    source: str
    split: Split
    sha256: str
    num_bytes: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """All tokens of all windows."""
        return self.input_ids.numel()


def read_documents(source: str, split: Split, tokenizer: PreTrainedTokenizerBase) -> list[Document]:
    """Return the documents of one split of a named source or of `file:PATH`; of a mixture those of all its parts.

    The tokenizer is for chat templates only.
    """
    parts = parse_mixture(source)
    if len(parts) > 1:
        return [document for part in parts for document in read_documents(part.source, split, tokenizer)]
    source = parts[0].source
    if source == OWN:
        raise UserInputError(
            f"{OWN!r} is text to calibrate or to train a language model on, which writes it as it is asked for; here "
            "give a named text or file:PATH"
        )
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
    tokens, num_bytes = _joined_tokens(documents, tokenizer, pool)
    num_windows = (len(tokens) if num_tokens is None else num_tokens) // seqlen
    if len(tokens) < max(num_windows, 1) * seqlen:
        raise UserInputError(
            f"the {split} split of {source!r} has {len(tokens)} tokens with this tokenizer, fewer than the "
            f"{max(num_windows, 1) * seqlen} that were asked for; lower num_tokens (or seqlen={seqlen}), "
            "or use a larger source"
        )
    starts = range(len(tokens) // seqlen)
    chosen = draw.sample(starts, num_windows) if split == "calibration" else starts[:num_windows]
    input_ids, in_bytes = (
        values[: len(starts) * seqlen].reshape(-1, seqlen)[list(chosen)] for values in (tokens, num_bytes)
    )
    return with_digest(input_ids, source, split, in_bytes)


def first_windows(
    source: str, tokenizer: PreTrainedTokenizerBase, *, split: Split, most: int, seqlen: int
) -> TokenWindows:
    """Return the first windows of a split that is not calibration: up to `most` tokens of them, and one at least."""
    available = len(_joined_tokens(read_documents(source, split, tokenizer), tokenizer, most)[0])
    return token_windows(source, tokenizer, split=split, num_tokens=max(seqlen, min(most, available)), seqlen=seqlen)


def spread_windows(
    source: str, tokenizer: PreTrainedTokenizerBase, *, split: Split, most: int, seqlen: int
) -> TokenWindows:
    """Return windows at even distances over a split that is not calibration: up to `most` tokens, and one window at
    least.
    """
    found = first_windows(source, tokenizer, split=split, most=POOL * most, seqlen=seqlen)
    there = len(found.input_ids)
    num = min(there, max(1, most // seqlen))
    chosen = [i * there // num for i in range(num)]
    num_bytes = None if found.num_bytes is None else found.num_bytes[chosen]
    return with_digest(found.input_ids[chosen], source, split, num_bytes)


def with_digest(input_ids: torch.Tensor, source: str, split: Split, num_bytes: torch.Tensor | None) -> TokenWindows:
    """Return windows with the sha256 of their tokens."""
    digest = hashlib.sha256(input_ids.numpy().astype("<i8").tobytes()).hexdigest()
    known = num_bytes is not None and bool((num_bytes >= 0).all())
    return TokenWindows(input_ids, source, split, digest, num_bytes if known else None)


def check_vocabulary(windows: TokenWindows, vocab_size: int) -> None:
    """Raise `UserInputError` when a token id is not one of the `vocab_size` that the model knows."""
    largest = int(windows.input_ids.max())
    if largest >= vocab_size:
        raise UserInputError(
            f"the tokenizer produced the token id {largest}, but the model's vocabulary ends at {vocab_size - 1}: "
            "the tokenizer is not the model's own; pass the one that was saved with it"
        )


def _joined_tokens(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, num_tokens: int | None
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """At least `num_tokens` tokens from the start of the documents, or all of them where there are fewer.

    Beside them the bytes that each stands for, -1 where that is not known.
    """
    separator = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    tokens, num_bytes = array("q"), array("q")
    for texts in text_batches(documents):
        if num_tokens is not None and len(tokens) >= num_tokens:
            break
        for (_, is_first), (ids, sizes) in zip(
            texts, encode_with_sizes([text for text, _ in texts], tokenizer), strict=True
        ):
            between = separator if tokens and is_first else []
            tokens.extend((*between, *ids))
            num_bytes.extend((*(0 for _ in between), *sizes))
    return torch.from_numpy(np.array(tokens, dtype=np.int64)), torch.from_numpy(np.array(num_bytes, dtype=np.int64))


def text_batches(documents: Sequence[Document]) -> Iterator[list[tuple[str, bool]]]:
    """Yield texts to encode at once, and whether a document begins with each: what that takes is bounded."""
    batch: list[tuple[str, bool]] = []
    for document in documents:
        for number, part in enumerate(cut_text(document.text, MOST_AT_ONCE)):
            if len(batch) == DOCUMENTS_PER_BATCH or sum(len(text) for text, _ in batch) + len(part) > MOST_AT_ONCE:
                yield batch
                batch = []
            batch.append((part, number == 0))
    if batch:
        yield batch


def encode_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase, *, as_targets: bool = False) -> list[list[int]]:
    """Return the tokens of each text, without special tokens.  Raises `CheckpointError`.

    as_targets   split them as what a model writes, where that is another way
    """
    found: list[list[int]] = _encoded(texts, tokenizer, as_targets=as_targets)["input_ids"]
    return found


def encode_with_sizes(
    texts: list[str], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[list[int], Sequence[int]]]:
    """Yield the tokens of each text and the bytes that each stands for, as `encode_texts`.

    A token stands for the text from the end of the one before it to its own.  -1 where the tokenizer does not say.
    """
    found: Any = _encoded(texts, tokenizer)
    parts = found.encodings or [None] * len(texts)
    for text, ids, part in zip(texts, found["input_ids"], parts, strict=True):
        yield ids, [-1] * len(ids) if part is None else byte_sizes(text, [end for _, end in part.offsets])


def byte_sizes(text: str, ends: Sequence[int]) -> list[int]:
    """Return the bytes of a text, in UTF-8, up to each end, a character's place, from the one before it."""
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    until = np.concatenate(([0], np.cumsum(1 + sum((characters >= least).astype(np.int64) for least in WIDER))))
    reached = np.maximum.accumulate(until[np.asarray(ends, dtype=np.int64)])
    sizes: list[int] = np.diff(reached, prepend=0).tolist()
    return sizes


def _encoded(texts: list[str], tokenizer: PreTrainedTokenizerBase, *, as_targets: bool = False) -> BatchEncoding:
    given: dict[str, Any] = {"text_target" if as_targets else "text": texts}
    try:
        found: BatchEncoding = tokenizer(**given, add_special_tokens=False, verbose=False)
    except Exception as error:  # the tokenizers library raises bare `Exception`
        raise CheckpointError(f"the tokenizer cannot encode this text: {error}") from error
    return found
