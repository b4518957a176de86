"""The text of token windows in the tokens of another tokenizer, so that both are measured on the same text."""

import hashlib
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from neuromeld.data.text.windows import TokenWindows, encode_with_sizes
from neuromeld.model.capture import Batch


def respelled(
    windows: TokenWindows, before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, most: int | None = None
) -> TokenWindows:
    """Return windows of the same text in tokens of `after`, padded at the end.

    before   the tokenizer that the windows were made with
    most     tokens of a window; what takes more is divided
    """
    ids, mask, num_bytes = _spelled(windows.input_ids, before, after, most)
    digest = hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest()
    known = windows.num_bytes is not None and bool((num_bytes >= 0).all())
    return replace(windows, input_ids=ids, attention_mask=mask, sha256=digest, num_bytes=num_bytes if known else None)


def respelled_batch(
    batch: Batch, before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, most: int | None = None
) -> Batch:
    """Return a batch of whole windows, without padding, with the same text in tokens of `after`; `most` as above."""
    ids, mask, _ = _spelled(batch["input_ids"], before, after, most)
    return {"input_ids": ids, "attention_mask": mask}


def _spelled(
    ids_bs: Tensor, before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, most: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tokens of each row's text, which of them are real, and the bytes that each stands for."""
    texts = [str(before.decode(row, clean_up_tokenization_spaces=False)) for row in ids_bs]
    rows = [torch.tensor([ids, list(sizes)]) for ids, sizes in encode_with_sizes(texts, after)]
    parts = [part.T for row in rows for part in row.split(most or row.shape[1], dim=1)]
    ids, num_bytes = pad_sequence(parts, batch_first=True).unbind(-1)
    mask = pad_sequence([torch.ones_like(part[:, 0]) for part in parts], batch_first=True)
    return ids.contiguous(), mask, num_bytes
