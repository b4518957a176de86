"""The laws of a cut vocabulary, for every kind of tokenizer: what was split into kept tokens is, and any text is."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.stages.vocabulary.pieces import pieces_of
from neuromeld.stages.vocabulary.rewrite import cut_content
from neuromeld.stages.vocabulary.select import rank_tokens
from vocabularies import KINDS, SPECIAL, TEXT, content_of, trained

WORDS = TEXT.split()
TEXTS = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join),
    st.text(alphabet=sorted(set(TEXT)), max_size=30),
)


def cut(tokenizer: Tokenizer, kept_text: str, share: float) -> tuple[Tokenizer, list[int]]:
    """The tokenizer with a share of its tokens, those that a text uses first, and their ids before."""
    content, ids = content_of(tokenizer), tokenizer.get_vocab()
    counts = np.bincount(tokenizer.encode(kept_text, add_special_tokens=False).ids, minlength=len(ids))
    ranking = rank_tokens(pieces_of(content), ids, [ids[token] for token in SPECIAL], counts)
    size = len(ranking.required) + round(share * len(ranking.ranked))
    kept = ranking.first(size)
    return Tokenizer.from_str(json.dumps(cut_content(content, kept))), kept


@pytest.mark.parametrize("kind", KINDS)
@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(text=TEXTS, kept_text=st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join))
def test_text_of_kept_tokens_is_split_the_same_and_every_text_says_the_same(kind, text, kept_text):
    before = trained(kind)
    after, kept = cut(before, kept_text, 0.3)
    old, new = before.encode(text), after.encode(text)
    if set(old.ids) <= set(kept):
        assert new.tokens == old.tokens
        assert [kept[number] for number in new.ids] == old.ids
    assert after.decode(new.ids) == before.decode(old.ids)


@pytest.mark.parametrize("kind", KINDS)
def test_all_tokens_kept_change_nothing(kind):
    content = content_of(trained(kind))
    assert cut_content(content, range(trained(kind).get_vocab_size())) == content


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_kept_tokens_in_order(kind):
    before = trained(kind)
    after, kept = cut(before, TEXT[:60], 0.5)
    assert [after.id_to_token(new) for new in range(len(kept))] == [before.id_to_token(old) for old in kept]


@pytest.mark.parametrize("kind", KINDS)
def test_most_used_tokens_cover_most(kind):
    """Half of the tokens cover more of the text that they were chosen by than a quarter, and all of them all."""
    before = trained(kind)
    ids = before.encode(TEXT, add_special_tokens=False).ids
    shares = [np.isin(ids, cut(before, TEXT, share)[1]).mean() for share in (0.0, 0.25, 0.5, 1.0)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_words_as_tokens_are_refused_by_name():
    with pytest.raises(UnsupportedModelError, match="WordLevel.*BPE, Unigram, WordPiece"):
        pieces_of({"model": {"type": "WordLevel", "vocab": {}}})


def test_fewer_tokens_than_must_stay_are_refused():
    before = trained("byte-level")
    content, ids = content_of(before), before.get_vocab()
    ranking = rank_tokens(pieces_of(content), ids, [0], np.zeros(len(ids), dtype=np.int64))
    with pytest.raises(UserInputError, match="257 tokens stay always"):
        ranking.first(256)
    assert len(ranking.first(257)) == 257


def test_coverage_takes_the_fewest_tokens_in_their_order():
    before = trained("byte-level")
    content, ids = content_of(before), before.get_vocab()
    counts = np.bincount(before.encode(TEXT, add_special_tokens=False).ids, minlength=len(ids))
    ranking = rank_tokens(pieces_of(content), ids, [0, 1, 2], counts)
    size = ranking.smallest_covering(0.8)
    assert counts[ranking.first(size)].sum() >= 0.8 * counts.sum()
    assert ranking.smallest_covering(1.0) > size
