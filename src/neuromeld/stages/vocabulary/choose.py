"""From a tokenizer and a text to the tokens that stay, and what that means for the text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from neuromeld.data.text.usage import TokenUse, token_use, vocabularies
from neuromeld.errors import UserInputError
from neuromeld.stages.vocabulary.ids import named_ids
from neuromeld.stages.vocabulary.rewrite import pieces_in, tokenizer_of, with_tokens
from neuromeld.stages.vocabulary.select import Ranking, rank_tokens

MULTIPLE, LEAST_ROUNDED = 64, 4096
"""A share of a vocabulary of so many tokens or more is rounded up to this multiple, as kernels like it."""

MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
"""What a chat template is tried on."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that stay, and their tokenizer.

    kept       ids before: the id after is the place in this list.  Ascending, but where there are two vocabularies
    processor  with the smaller tokenizer
    target     as `kept`, of the tokens that the model writes, where these are numbered apart; else empty
    """

    kept: tuple[int, ...]
    processor: Any
    target: tuple[int, ...] = ()

    @property
    def each(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of the only vocabulary, or those of the two."""
        return (self.kept, self.target) if self.target else (self.kept,)


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
    found = rankings(tokenizer_of(processor), source, named_in(model))
    table: Any = model.get_input_embeddings()
    rows = int(table.num_embeddings)
    least = max(rounded(len(one.required), rows) for one in found)
    most = max(len(one.required) + len(one.ranked) for one in found)
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
def rankings(tokenizer: PreTrainedTokenizerBase, source: str, named: frozenset[int]) -> tuple[Ranking, ...]:
    """Rank the tokens of each vocabulary by their use in the calibration split of a text; `named` ids stay."""
    required = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids) | set(_template_ids(tokenizer))
    tables = vocabularies(tokenizer)
    uses = token_use(source, "calibration", tokenizer)
    return tuple(
        rank_tokens(pieces, ids, (required | named) & set(ids.values()), use.counts)
        for pieces, ids, use in zip(pieces_in(tokenizer), tables, uses, strict=True)
    )


def choose_vocabulary(
    processor: Any, source: str, sizes: Sequence[int], named: frozenset[int] = frozenset()
) -> Vocabulary:
    """Return the tokens that a text uses most, with all that they are made from, and their tokenizer.

    sizes   tokens of each vocabulary
    """
    tokenizer = tokenizer_of(processor)
    ranked = rankings(tokenizer, source, named)
    found = [one.first(size) for one, size in zip(ranked, sizes, strict=True)]
    for kept, size, ids in zip(found, sizes, vocabularies(tokenizer), strict=True):
        if len(kept) < size:
            raise UserInputError(
                f"a vocabulary of {size:,} cannot be had: of the {len(ids):,} tokens "
                f"{len(kept):,} fit with what they are made from; give --vocab-size {len(kept)}"
            )
    if len(found) > 1:  # configs and special tokens have one number for both
        both = sorted(frozenset.intersection(*(one.required for one in ranked)))
        found = [[*both, *sorted(set(kept).difference(both))] for kept in found]
    kept, target = found if len(found) > 1 else (found[0], [])
    return Vocabulary(tuple(kept), with_tokens(processor, *found), tuple(target))


def effect_of(processor: Any, vocabulary: Vocabulary, source: str) -> Effect:
    """Measure a vocabulary, or two together, on the validation split of the text it was chosen by."""
    before, after = tokenizer_of(processor), tokenizer_of(vocabulary.processor)
    held_out = token_use(source, "validation", before)
    return Effect(
        coverage=_share(held_out, vocabulary),
        coverage_chosen=_share(token_use(source, "calibration", before), vocabulary),
        tokens_per_word=(_per_word(held_out), _per_word(token_use(source, "validation", after))),
        source=source,
        held_out_tokens=sum(use.tokens for use in held_out),
    )


def _share(uses: Sequence[TokenUse], vocabulary: Vocabulary) -> float:
    stay = sum(use.counts[np.asarray(kept)].sum() for use, kept in zip(uses, vocabulary.each, strict=True))
    return float(stay / max(1, sum(use.tokens for use in uses)))


def _per_word(uses: Sequence[TokenUse]) -> float:
    return sum(use.tokens for use in uses) / max(1, sum(use.words for use in uses))


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
