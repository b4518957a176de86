"""Marian's tokenizers and models: fewer tokens in one list, or in one for each side."""

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MarianMTModel, MarianTokenizer

from marian import ENGLISH, GERMAN, PAIRS, marian_model, marian_tokenizer, piece_model
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.checkpoint import save_checkpoint
from neuromeld.data.text.usage import renumbered, token_use, vocabularies
from neuromeld.errors import UnsupportedModelError, UserInputError
from neuromeld.evaluation import flops_per_token, unique_parameters
from neuromeld.modalities.targets import decoder_entries
from neuromeld.planning.plan import CONTEXT, meta_model
from neuromeld.stages.vocabulary.choose import choose_vocabulary, effect_of, rankings

WORDS = (ENGLISH + " " + GERMAN).split()
TEXTS = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join),
    st.text(alphabet=sorted({*ENGLISH, *GERMAN, "語"}), max_size=30),
)
CASES = [(apart, kind) for apart in (False, True) for kind in ("unigram", "bpe")]
LEFT_OUT = ("q", "▁th", "ver")


@pytest.fixture
def pairs(tmp_path) -> str:
    path = tmp_path / "pairs.jsonl"
    rows = [{"source": source + str(n), "target": target + str(n)} for n in range(20) for source, target in PAIRS[:2]]
    path.write_text("\n".join(map(json.dumps, rows)))
    return f"file:{path}"


@cache
def cut(apart: bool, kind: str, without: tuple[str, ...] = ()):
    """A tokenizer, and a third of the tokens that need not stay, chosen by a text for both sides."""
    folder = Path(mkdtemp())
    before = marian_tokenizer(folder, apart=apart, kind=kind, without=without)
    text = folder / "text.jsonl"
    text.write_text("\n".join(json.dumps({"text": " ".join(pair) + str(n)}) for n in range(20) for pair in PAIRS[:2]))
    ranked = rankings(before, f"file:{text}", frozenset())
    sizes = [len(one.required) + len(one.ranked) // 3 for one in ranked]
    return before, choose_vocabulary(before, f"file:{text}", sizes)


def split(tokenizer: MarianTokenizer, text: str, side: int) -> tuple[list[int], list[str]]:
    """The ids of a text as a source or a target, and their tokens."""
    ids = tokenizer(**{("text", "text_target")[side]: text}, add_special_tokens=False)["input_ids"]
    tokens = {number: token for token, number in vocabularies(tokenizer)[side * tokenizer.separate_vocabs].items()}
    return ids, [tokens[number] for number in ids]


@pytest.mark.parametrize("without", [(), LEFT_OUT])
@pytest.mark.parametrize(("apart", "kind"), CASES)
@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(text=TEXTS, side=st.sampled_from((0, 1)))
def test_text_of_kept_tokens_is_split_the_same_and_what_was_known_is(apart, kind, without, text, side):
    before, vocabulary = cut(apart, kind, without)
    kept = vocabulary.each[side * apart]
    (old, said), (new, says) = (split(one, text, side) for one in (before, vocabulary.processor))
    if without and before.unk_token_id in old:
        return  # what was unknown may be known
    assert "".join(says) == "".join(said)
    if set(old) <= set(kept):
        assert says == said
        assert [kept[number] for number in new] == old


@pytest.mark.parametrize("apart", [False, True])
def test_special_tokens_codes_and_letters_stay(apart):
    before, vocabulary = cut(apart, "unigram")
    for old, new, kept in zip(vocabularies(before), vocabularies(vocabulary.processor), vocabulary.each, strict=True):
        assert {token: kept[number] for token, number in new.items()}.items() <= old.items()
        assert {"</s>", "<unk>", "<pad>", ">>deu<<", *(token for token in old if len(token) == 1)} <= new.keys()
        assert len(new) < len(old)
    assert vocabulary.processor(">>deu<< the fox").input_ids[0] == vocabulary.processor.encoder[">>deu<<"]


@pytest.mark.parametrize("apart", [False, True])
def test_all_tokens_kept_change_nothing(apart, pairs):
    before, _ = cut(apart, "unigram")
    every = choose_vocabulary(before, pairs, [len(table) for table in vocabularies(before)])
    for line, side in ((ENGLISH, 0), (GERMAN, 1)):
        (old, said), (new, says) = (split(one, line, side) for one in (before, every.processor))
        assert (says, [every.each[side * apart][number] for number in new]) == (said, old)
    assert effect_of(before, every, pairs).coverage == 1.0


@pytest.mark.parametrize("apart", [False, True])
def test_sources_and_targets_are_counted_each_by_its_own_pieces(apart, pairs):
    tokenizer, _ = cut(apart, "unigram")
    uses = token_use(pairs, "calibration", tokenizer)
    of_source, of_target = (tokenizer.encoder.get("▁fox"), vocabularies(tokenizer)[-1]["▁Fuchs"])
    assert uses[0].counts[of_source] > 0
    assert uses[-1].counts[of_target] > 0
    assert len(uses) == 1 + apart
    sides = [split(tokenizer, line, side)[0] for side in (0, 1) for line in [pair[side] for pair in PAIRS[:2]]]
    assert sum(use.tokens for use in uses) > sum(map(len, sides))


@pytest.mark.parametrize("apart", [False, True])
def test_logits_are_as_before_and_the_result_is_plain_marian(apart, pairs, tmp_path):
    tokenizer = marian_tokenizer(tmp_path / "whole", apart=apart)
    model = marian_model(tokenizer)
    full, chosen = deepcopy(model), parse_recipe({"vocabulary": {"text": pairs, "ratio": 0.8}})
    plan = make_plan(model, chosen)
    assert plan == make_plan(meta_model(model.config), chosen, dtype=torch.float32)
    draw = torch.Generator().manual_seed(0)
    data = [{name: torch.randint(60, (64, 9), generator=draw) for name in ("input_ids", "decoder_input_ids")}]
    done = compress_model(model, plan, data * 4, processor=tokenizer)
    kept = [torch.tensor(side) for side in done.results["vocabulary"].vocabulary.each]
    assert unique_parameters(model) == plan.parameters_after < plan.parameters_before
    assert flops_per_token(model, context=CONTEXT) == plan.flops_after
    (tmp_path / "out").mkdir()
    save_checkpoint(model, done.processor, tmp_path / "out", recipe_yaml=None)
    again, reader = MarianMTModel.from_pretrained(tmp_path / "out"), MarianTokenizer.from_pretrained(tmp_path / "out")
    ids = [torch.randint(len(side), (2, 7), generator=draw) for side in (kept[0], kept[-1])]
    old = full(input_ids=kept[0][ids[0]], decoder_input_ids=kept[-1][ids[1]]).logits
    new = again(input_ids=ids[0], decoder_input_ids=ids[1]).logits
    torch.testing.assert_close(new, old[..., kept[-1]])
    assert (again.config.vocab_size, again.config.decoder_vocab_size) == (len(kept[0]), len(kept[-1]))
    assert (again.config.pad_token_id, again.generation_config.bad_words_ids) == (2, [[2], [new_id(kept[-1], 7)]])
    batch = reader([ENGLISH[:40]], text_target=[GERMAN[:40]], return_tensors="pt")
    assert batch["labels"][0, -1] == reader.eos_token_id == again.config.eos_token_id
    assert again(**batch).loss.isfinite()
    written = full.generate(
        torch.tensor([split(tokenizer, "the fox", 0)[0]]), max_new_tokens=5, num_beams=1, **shut_out(full, kept[-1])
    )
    ids = torch.tensor([split(reader, "the fox", 0)[0]])
    torch.testing.assert_close(kept[-1][again.generate(ids, max_new_tokens=5, num_beams=1)], written)


def test_other_stages_read_two_vocabularies(pairs, tmp_path):
    tokenizer = marian_tokenizer(tmp_path / "whole", apart=True)
    model = marian_model(tokenizer)
    ffn = {"ffn": {"ratio": 0.5}, "calibration": {"tokens": 2048, "seqlen": 9}}
    plan = make_plan(model, parse_recipe({"vocabulary": {"text": pairs, "size": 75}} | ffn))
    draw = torch.Generator().manual_seed(0)
    data = [{name: torch.randint(60, (64, 9), generator=draw) for name in ("input_ids", "decoder_input_ids")}]
    done = compress_model(model, plan, data * 4, processor=tokenizer)
    (tmp_path / "out").mkdir()
    save_checkpoint(model, done.processor, tmp_path / "out", recipe_yaml=None)
    again = MarianMTModel.from_pretrained(tmp_path / "out")
    assert (again.config.vocab_size, again.config.decoder_vocab_size, again.config.encoder_ffn_dim) == (75, 75, 8)
    assert unique_parameters(again) == plan.parameters_after
    torch.testing.assert_close(again(**data[0]).logits, model(**data[0]).logits)


def new_id(kept: torch.Tensor, old: int) -> int:
    return kept.tolist().index(old)


def shut_out(model: MarianMTModel, kept: torch.Tensor) -> dict[str, list[int]]:
    """What keeps a model from writing tokens that are not kept."""
    return {"suppress_tokens": sorted(set(range(model.lm_head.out_features)) - set(kept.tolist()))}


def test_batches_are_renumbered_by_the_vocabulary_of_their_side():
    before, vocabulary = cut(True, "unigram")
    kept = [torch.tensor(side) for side in vocabulary.each]
    batch = {"input_ids": kept[0][None], "labels": kept[1][None], "attention_mask": torch.ones(1, 3)}
    found = renumbered(batch, before, vocabulary.processor)
    assert found["input_ids"].tolist() == [list(range(len(kept[0])))]
    assert found["labels"].tolist() == [list(range(len(kept[1])))]


def test_targets_are_checked_by_their_own_vocabulary(tmp_path):
    config = marian_model(marian_tokenizer(tmp_path, apart=True)).config
    last = config.decoder_vocab_size - 1
    assert last >= config.vocab_size
    assert decoder_entries([[last, 0]], config)["labels"].tolist() == [[last, 0]]
    with pytest.raises(UserInputError, match=f"vocabulary ends at {last}"):
        decoder_entries([[last + 1]], config)


def test_what_cannot_be_cut_is_refused_by_name(tmp_path, pairs):
    recipe = parse_recipe({"vocabulary": {"text": pairs, "ratio": 0.8}})
    shared, apart = (marian_tokenizer(tmp_path / str(two), apart=two) for two in (False, True))
    model = marian_model(apart)
    data = [{name: torch.zeros(256, 9, dtype=torch.int64) for name in ("input_ids", "decoder_input_ids")}]
    with pytest.raises(UserInputError, match="the tokenizer has 1 vocabularies and the model 2"):
        compress_model(model, make_plan(model, recipe), data, processor=shared)
    lists = json.loads((tmp_path / "True" / "target_vocab.json").read_text())
    lists["<pad>"], lists["▁"] = lists["▁"], lists["<pad>"]
    (tmp_path / "True" / "target_vocab.json").write_text(json.dumps(lists))
    with pytest.raises(UnsupportedModelError, match="<pad> is number 2 in vocab.json and another one"):
        rankings(MarianTokenizer.from_pretrained(tmp_path / "True"), pairs, frozenset())
    (tmp_path / "False" / "source.spm").write_bytes(piece_model(ENGLISH, "word"))
    with pytest.raises(UnsupportedModelError, match="SentencePiece model of whole words"):
        rankings(MarianTokenizer.from_pretrained(tmp_path / "False"), pairs, frozenset())
