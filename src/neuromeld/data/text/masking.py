"""Text for encoders: windows in a sentence's frame, and windows with some tokens hidden."""

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from neuromeld.errors import UserInputError
from neuromeld.model.capture import IGNORED

MASKED_RATIO = 0.15
"""Of the tokens of a window, as in BERT's own training (arXiv:1810.04805 section 3.1)."""


def in_frames(ids: Int64[Tensor, "n s"], tokenizer: PreTrainedTokenizerBase) -> Int64[Tensor, "n s"]:
    """Return windows with the tokenizer's first and last token of a sentence, where it has them, in place of their
    own.
    """
    framed = ids.clone()
    for place, token in ((0, tokenizer.cls_token_id), (-1, tokenizer.sep_token_id)):
        if token is not None:
            framed[:, place] = token
    return framed


def mask_tokens(
    ids: Int64[Tensor, "n s"], tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[Int64[Tensor, "n s"], Int64[Tensor, "n s"]]:
    """Return windows with `MASKED_RATIO` of their tokens, at least one, behind the mask token, and labels.

    Labels are the tokens that are hidden, elsewhere `IGNORED`.  Special tokens are never hidden.  `UserInputError` for
    a tokenizer without a mask token.
    """
    if tokenizer.mask_token_id is None:
        raise UserInputError("the tokenizer has no mask token, so it is not that of a masked language model")
    generator = torch.Generator().manual_seed(seed)
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    order = torch.rand(ids.shape, generator=generator).masked_fill(special, -1)
    hidden = torch.zeros_like(special)
    hidden.scatter_(1, order.topk(max(1, round(MASKED_RATIO * ids.shape[1])), dim=1).indices, value=True)
    hidden &= ~special
    return ids.masked_fill(hidden, tokenizer.mask_token_id), ids.masked_fill(~hidden, IGNORED)
