import hashlib
import json
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch

from neuromeld.data.text import (
    check_vocabulary,
    first_windows,
    read_documents,
    spread_windows,
    token_windows,
    windows,
)
from neuromeld.errors import UserInputError

SPLITS = ("calibration", "validation", "evaluation")


def seed_of(split):
    return 0 if split == "calibration" else None


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {i}: {'word ' * (i % 7)}"}) + "\n" for i in range(200)))
    return f"file:{path}"


def test_evaluation_windows_are_the_documents_joined_by_eos_and_cut(source, tokenizer):
    documents = read_documents(source, "evaluation", tokenizer)
    text = tokenizer.decode(
        token_windows(source, tokenizer, split="evaluation", num_tokens=None, seqlen=1).input_ids.flatten()
    )
    assert text == "<eos>".join(document.text for document in documents)


def test_without_an_eos_token_documents_follow_one_another(source, tokenizer):
    tokenizer.eos_token = None
    documents = read_documents(source, "evaluation", tokenizer)
    built = token_windows(source, tokenizer, split="evaluation", num_tokens=None, seqlen=1)
    assert tokenizer.decode(built.input_ids.flatten()) == "".join(document.text for document in documents)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_windows_are_of_all_tokens_and_exactly_as_many_as_asked_for(split, batch, source, tokenizer, monkeypatch):
    everything = token_windows(source, tokenizer, split=split, num_tokens=None, seqlen=8, seed=seed_of(split))
    monkeypatch.setattr(windows, "DOCUMENTS_PER_BATCH", batch)
    some = token_windows(source, tokenizer, split=split, num_tokens=103, seqlen=8, seed=seed_of(split))
    assert some.input_ids.shape == (12, 8)
    assert some.num_tokens == 96
    assert some.input_ids.dtype == torch.int64
    if split == "calibration":
        assert {tuple(row) for row in some.input_ids.tolist()} <= {tuple(row) for row in everything.input_ids.tolist()}
    else:
        assert torch.equal(some.input_ids, everything.input_ids[:12])
    assert (some.source, some.split) == (source, split)


def test_calibration_order_depends_on_the_seed_and_on_nothing_else(source, tokenizer):
    def build(seed):
        return token_windows(source, tokenizer, split="calibration", num_tokens=None, seqlen=1, seed=seed)

    first, again, other = build(1), build(1), build(2)
    assert torch.equal(first.input_ids, again.input_ids)
    assert first.sha256 == again.sha256
    assert not torch.equal(first.input_ids, other.input_ids)
    assert first.sha256 != other.sha256
    assert torch.equal(first.input_ids.flatten().sort().values, other.input_ids.flatten().sort().values)


def test_calibration_windows_come_from_many_documents(source, tokenizer, monkeypatch):
    """Drawn from a pool, few windows still see documents that filling them in order would not reach."""
    monkeypatch.setattr(windows, "DOCUMENTS_PER_BATCH", 1)
    drawn = token_windows(source, tokenizer, split="calibration", num_tokens=96, seqlen=8, seed=3)
    monkeypatch.setattr(windows, "POOL", 1)
    in_order = token_windows(source, tokenizer, split="calibration", num_tokens=96, seqlen=8, seed=3)
    first = {tuple(row) for row in in_order.input_ids.tolist()}
    assert sum(tuple(row) in first for row in drawn.input_ids.tolist()) < 12


def test_splits_share_no_document(source, tokenizer):
    texts = []
    for split in SPLITS:
        texts += [document.text for document in read_documents(source, split, tokenizer)]
    assert len(texts) == len(set(texts)) == 200


def test_the_hash_is_that_of_the_token_ids(source, tokenizer):
    built = token_windows(source, tokenizer, split="evaluation", num_tokens=64, seqlen=8)
    assert built.sha256 == hashlib.sha256(built.input_ids.numpy().astype(np.int64).tobytes()).hexdigest()


def test_no_warning_about_long_documents(source, tokenizer, caplog, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        token_windows(source, tokenizer, split="evaluation", num_tokens=None, seqlen=8)
    assert "maximum sequence length" not in caplog.text + "".join(capsys.readouterr())


def test_a_source_that_is_too_small_says_how_large_it_is(source, tokenizer):
    everything = token_windows(source, tokenizer, split="evaluation", num_tokens=None, seqlen=1).num_tokens
    token_windows(source, tokenizer, split="evaluation", num_tokens=everything, seqlen=1)
    message = f"has {everything} tokens with this tokenizer, fewer than the {everything + 1}.*lower num_tokens"
    with pytest.raises(UserInputError, match=message):
        token_windows(source, tokenizer, split="evaluation", num_tokens=everything + 1, seqlen=1)
    with pytest.raises(UserInputError, match=f"has {everything} tokens"):
        token_windows(source, tokenizer, split="evaluation", num_tokens=None, seqlen=everything + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "calibration", "num_tokens": 8, "seqlen": 8}, "calibration needs a seed"),
        ({"split": "evaluation", "num_tokens": 8, "seqlen": 8, "seed": 0}, "the other splits take none"),
        ({"split": "evaluation", "num_tokens": 7, "seqlen": 8}, "num_tokens=7 does not fill one window of seqlen=8"),
        ({"split": "evaluation", "num_tokens": None, "seqlen": 0}, "seqlen=0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message, source, tokenizer):
    with pytest.raises(UserInputError, match=message):
        token_windows(source, tokenizer, **options)


def test_a_tokenizer_of_another_model_is_refused(source, tokenizer):
    built = token_windows(source, tokenizer, split="evaluation", num_tokens=None, seqlen=1)
    assert built.input_ids.max() == tokenizer.eos_token_id == 256
    check_vocabulary(built, 257)
    with pytest.raises(UserInputError, match="token id 256, but the model's vocabulary ends at 255"):
        check_vocabulary(built, 256)


@pytest.mark.parametrize(("most", "expected"), [(32, 4), (35, 4), (10**9, None), (1, 1)])
def test_first_windows_are_at_most_what_was_asked_for(source, tokenizer, most, expected):
    everything = token_windows(source, tokenizer, split="validation", num_tokens=None, seqlen=8).input_ids
    found = first_windows(source, tokenizer, split="validation", most=most, seqlen=8).input_ids
    assert torch.equal(found, everything[:expected])
    with pytest.raises(UserInputError, match="the validation split of .* has .* tokens"):
        first_windows(source, tokenizer, split="validation", most=most, seqlen=10**6)


@pytest.mark.parametrize("most", [8, 32, 35, 10**9])
def test_spread_windows_are_at_even_distances_in_the_pool(most, tokenizer, tmp_path):
    (tmp_path / "numbers.jsonl").write_text("\n".join(json.dumps({"text": f"{n:08}" * 4}) for n in range(400)))
    source = f"file:{tmp_path / 'numbers.jsonl'}"
    everything = token_windows(source, tokenizer, split="validation", num_tokens=None, seqlen=8).input_ids
    pool = everything[: windows.POOL * (most // 8)].tolist()
    found = spread_windows(source, tokenizer, split="validation", most=most, seqlen=8).input_ids.tolist()
    assert len(found) == min(most // 8, len(pool))
    where = [pool.index(found[0])]
    for window in found[1:]:
        where.append(pool.index(window, where[-1] + 1))
    gaps = [later - earlier for earlier, later in pairwise([*where, len(pool)])]
    assert where[0] == 0
    assert max(gaps) - min(gaps) <= 4  # the four windows of a document may be the same
