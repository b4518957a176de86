"""From a tokenizer and a text to the tokens that stay, and what that means for the text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from neuromeld.data.text.usage import TokenUse, token_use
from neuromeld.errors import UserInputError
from neuromeld.stages.vocabulary.ids import named_ids
from neuromeld.stages.vocabulary.pieces import pieces_of
from neuromeld.stages.vocabulary.rewrite import read_tokenizer, tokenizer_of, with_tokens
from neuromeld.stages.vocabulary.select import Ranking, rank_tokens

MULTIPLE, LEAST_ROUNDED = 64, 4096
"""A share of a vocabulary of so many tokens or more is rounded up to this multiple, as kernels like it."""

MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
"""What a chat template is tried on."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that stay, and their tokenizer.

    kept       ids before, ascending: the id after is the place in this list
    processor  with the smaller tokenizer
    """

    kept: tuple[int, ...]
    processor: Any


@dataclass(frozen=True)
class Effect:
    """Say what a smaller vocabulary means for the held-out part of the text it was chosen by.

    coverage           share of its tokens, as split before, that stay
    coverage_chosen    the same of the part that the tokens were chosen by
    tokens_per_word    before and after; words are what white space divides
    """

    coverage: float
    coverage_chosen: float
    tokens_per_word: tuple[float, float]
    source: str
    held_out_tokens: int


@dataclass(frozen=True)
class VocabularyRange:
    """The numbers of tokens, ascending, that may be left of a vocabulary of so many `rows`, chosen by a text."""

    text: str
    sizes: range
    rows: int

    def at(self, share: float) -> int | None:
        """Return the largest of the sizes that is no more than this share of the rows; None where there is none."""
        return max((size for size in self.sizes if size <= share * self.rows), default=None)


def vocabulary_range(model: PreTrainedModel, processor: Any, source: str) -> VocabularyRange:
    """Return which vocabularies of a model can be had by the text `source`."""
    found = ranking(tokenizer_of(processor), source, named_in(model))
    table: Any = model.get_input_embeddings()
    rows = int(table.num_embeddings)
    least, most = rounded(len(found.required), rows), len(found.required) + len(found.ranked)
    return VocabularyRange(source, range(least, min(most, rows - 1) + 1, multiple_of(rows)), rows)


def named_in(model: PreTrainedModel) -> frozenset[int]:
    """Return all token ids that a model's configs name."""
    generation = getattr(model, "generation_config", None)
    return frozenset(named_ids(vars(model.config)) | (named_ids(vars(generation)) if generation else set()))


def multiple_of(rows: int) -> int:
    """Return the multiple that a number of tokens is rounded up to where it need not be exact."""
    return MULTIPLE if rows >= LEAST_ROUNDED else 1


def rounded(tokens: int, rows: int) -> int:
    """Return a number of tokens rounded up, to `rows` at most."""
    return min(rows, math.ceil(tokens / multiple_of(rows)) * multiple_of(rows))


@lru_cache(maxsize=4)
def ranking(tokenizer: PreTrainedTokenizerBase, source: str, named: frozenset[int]) -> Ranking:
    """Rank the tokens of a tokenizer by their use in the calibration split of a text; `named` ids stay."""
    content = read_tokenizer(tokenizer)
    ids = tokenizer.get_vocab()
    required = {token["id"] for token in content["added_tokens"]} | (named & set(ids.values()))
    required |= set(tokenizer.all_special_ids) | set(_template_ids(tokenizer))
    return rank_tokens(pieces_of(content), ids, required, token_use(source, "calibration", tokenizer).counts)


def choose_vocabulary(processor: Any, source: str, size: int, named: frozenset[int] = frozenset()) -> Vocabulary:
    """Return the `size` tokens that a text uses most, with all that they are made from, and their tokenizer."""
    tokenizer = tokenizer_of(processor)
    kept = ranking(tokenizer, source, named).first(size)
    if len(kept) < size:
        raise UserInputError(
            f"a vocabulary of {size:,} cannot be had: of the {len(tokenizer.get_vocab()):,} tokens "
            f"{len(kept):,} fit with what they are made from; give --vocab-size {len(kept)}"
        )
    return Vocabulary(tuple(kept), with_tokens(processor, kept))


def effect_of(processor: Any, vocabulary: Vocabulary, source: str) -> Effect:
    """Measure a vocabulary on the validation split of the text it was chosen by."""
    before, after = tokenizer_of(processor), tokenizer_of(vocabulary.processor)
    held_out = token_use(source, "validation", before)
    return Effect(
        coverage=_share(held_out, vocabulary.kept),
        coverage_chosen=_share(token_use(source, "calibration", before), vocabulary.kept),
        tokens_per_word=(held_out.per_word, token_use(source, "validation", after).per_word),
        source=source,
        held_out_tokens=held_out.tokens,
    )


def _share(use: TokenUse, kept: Sequence[int]) -> float:
    return float(use.counts[np.asarray(kept)].sum() / max(1, use.tokens))


def _template_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that a chat template writes itself; none where there is no template, or it is for others."""
    if not tokenizer.chat_template:
        return []
    try:
        found = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
        ids: list[int] = tokenizer(str(found), add_special_tokens=False)["input_ids"]
    except Exception:  # whatever a template makes of these messages
        return []
    return ids
