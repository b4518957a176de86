"""Windows of several texts by weight, and of what a model writes itself."""

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from neuromeld import compress, parse_recipe
from neuromeld.checkpoint.source import ModelSource, locate
from neuromeld.data.calibration import Calibration
from neuromeld.data.text import TokenWindows
from neuromeld.errors import UserInputError
from neuromeld.modalities import MODALITIES
from neuromeld.modalities.own_text import BATCH, OwnText
from tiny import WORDS


class Unloadable(ModelSource):
    def load(self, *_, **__):
        raise AssertionError("it was written already")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROMELD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(checkpoint: Path) -> ModelSource:
    return locate(str(checkpoint))


@pytest.fixture
def texts(source, tmp_path):
    """Text a has the first half of the words, text b the second."""
    named = {}
    for name, words in (("a", WORDS[2:32]), ("b", WORDS[32:])):
        draw = random.Random(0)
        lines = [json.dumps({"text": " ".join(draw.choices(words, k=64))}) for _ in range(80)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        named[name] = f"file:{tmp_path / name}.jsonl"

    def build(mixture: str, seed: int = 0):
        settings = Calibration(source=mixture.format(**named), tokens=640, seqlen=16, seed=seed)
        return MODALITIES["tokens"].__class__(OwnText(source)).texts(settings, source.tokenizer())

    return build


def kinds(windows: TokenWindows) -> list[str]:
    """Tell of each window whose it is: windows of a and b hold words of one half, but for the end of a document."""
    found = []
    for row in windows.input_ids.tolist():
        halves = {token < 32 for token in row if token != 1}
        found.append("self" if len(halves) > 1 else "a" if True in halves else "b")
    return found


@pytest.mark.parametrize("split", ["calibration", "validation"])
def test_a_mixture_has_windows_by_weight_in_an_order_of_the_seed(texts, split):
    first, again, other = (getattr(texts("{a}:1,{b}:3", seed), split)(20 * 16) for seed in (0, 0, 1))
    assert sorted(kinds(first)) == 5 * ["a"] + 15 * ["b"]
    assert kinds(first) != sorted(kinds(first))
    assert first.sha256 == again.sha256 != other.sha256


def test_the_usual_text_is_a_mixture_where_there_are_windows_enough(source, texts):
    mixture = texts("{a}:3,{b}:1").source

    def usual(windows: int, split: str = "calibration"):
        settings = Calibration(tokens=windows * 16, seqlen=16)
        found = MODALITIES["tokens"].texts(settings, source.tokenizer(), mixture)
        return kinds(getattr(found, split)(windows * 16))

    assert sorted(usual(8)) == 6 * ["a"] + 2 * ["b"]
    assert usual(1) == ["a"]
    assert usual(2, "validation") == ["a", "a"]


def test_a_mixture_with_own_text_has_as_much_of_it_as_its_weight(texts):
    found = kinds(texts("{a}:2,{b}:1,self:1").calibration(20 * 16))
    assert {kind: found.count(kind) for kind in set(found)} == {"a": 10, "b": 5, "self": 5}


def test_training_repeats_no_window_and_keeps_to_the_weights(texts):
    one, mixed = texts("{a}").training(), texts("{a}:1,{b}:4").training()
    found = kinds(mixed)
    assert abs(found.count("b") - 4 * found.count("a")) <= 4
    assert len(mixed.input_ids.unique(dim=0)) == len(mixed.input_ids) > len(one.input_ids)


def test_a_weight_that_leaves_no_window_is_named(texts):
    with pytest.raises(UserInputError, match=r"of 3 windows of 16 tokens none is left for self"):
        texts("{a}:100,self:1").calibration(48)


def test_own_text_is_kept_and_a_longer_one_begins_with_the_shorter(source):
    settings = Calibration(source="self", tokens=640, seqlen=16)
    first = OwnText(source).windows(settings, "calibration", BATCH)
    longer = OwnText(source).windows(settings, "calibration", 2 * BATCH + 3)
    assert torch.equal(longer.input_ids[:BATCH], first.input_ids)
    assert len(longer.input_ids.unique(dim=0)) == 2 * BATCH + 3
    kept = OwnText(Unloadable(**vars(source))).windows(settings, "calibration", 2 * BATCH + 3)
    assert kept.sha256 == longer.sha256
    others = [OwnText(source).windows(settings, "validation", BATCH)]
    others += [OwnText(source).windows(settings.model_copy(update={"seed": 1}), "calibration", BATCH)]
    assert len({windows.sha256 for windows in (first, *others)}) == 3


def test_prompts_begin_the_windows_in_turn(source, tmp_path):
    (tmp_path / "prompts.txt").write_text("w7 w8\n\nw9\n")
    settings = Calibration(source="self", seqlen=16, prompts=str(tmp_path / "prompts.txt"))
    rows = OwnText(source).windows(settings, "calibration", 5).input_ids.tolist()
    assert [row[:2] for row in rows[::2]] == 3 * [[7, 8]]
    assert [row[0] for row in rows[1::2]] == [9, 9]


def chatting(source: ModelSource, folder: Path, template: str) -> ModelSource:
    AutoModelForCausalLM.from_pretrained(source.folder).save_pretrained(folder)
    tokenizer = source.tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return locate(str(folder))


def test_a_model_with_a_chat_template_asks_in_every_second_window(source, tmp_path):
    template = "{% for m in messages %}w7 {{ m['role'] }} w8 {{ m['content'] }} w9{% endfor %}"
    settings = Calibration(source="self", seqlen=16)
    rows = OwnText(chatting(source, tmp_path / "chat", template)).windows(settings, "calibration", 6).input_ids.tolist()
    assert [row[:3] for row in rows[1::2]] == 3 * [[7, 0, 8]]  # a word that it does not know is w0
    assert [7, 0, 8] not in [row[:3] for row in rows[::2]]
    assert len({tuple(row[3:]) for row in rows}) == 6


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no') }}", "w7 w8", "{{ messages[0]['content'] }}", "w7 " * 9]
)
def test_a_template_that_cannot_be_asked_with_is_left_alone(source, tmp_path, template):
    template += "{{ messages[0]['content'] }}" if template.startswith("w7 w7") else ""
    settings = Calibration(source="self", seqlen=16)
    found = OwnText(chatting(source, tmp_path / "chat", template)).windows(settings, "calibration", 3)
    assert torch.equal(found.input_ids, OwnText(source).windows(settings, "calibration", 3).input_ids)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("\n \n", "has no prompt"),
        ("w5 " * 9, "a prompt of 9 tokens, more than half of a window of seqlen=16"),
        (None, "cannot be read"),
    ],
)
def test_prompts_that_cannot_be_used_are_one_message(source, tmp_path, prompts, message):
    if prompts is not None:
        (tmp_path / "prompts.txt").write_text(prompts)
    settings = Calibration(source="self", seqlen=16, prompts=str(tmp_path / "prompts.txt"))
    with pytest.raises(UserInputError, match=message):
        OwnText(source).windows(settings, "calibration", 2)


def test_a_model_that_repeats_itself_is_refused_with_the_share_of_distinct_windows(source, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(source.folder)
    with torch.no_grad():
        model.model.norm.weight *= 1e5
    model.save_pretrained(tmp_path / "sure")
    source.tokenizer().save_pretrained(tmp_path / "sure")
    settings = Calibration(source="self", seqlen=64)
    with pytest.raises(UserInputError, match=r"repeats itself: of what it wrote only \d+\.\d% of the windows of 8"):
        OwnText(locate(str(tmp_path / "sure"))).windows(settings, "calibration", 8)


def test_a_model_without_a_start_token_is_refused(source, tmp_path):
    AutoModelForCausalLM.from_pretrained(source.folder).save_pretrained(tmp_path / "mute")
    tokenizer = source.tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "mute")
    with pytest.raises(UserInputError, match="no token that a text starts or ends with"):
        OwnText(locate(str(tmp_path / "mute"))).windows(Calibration(source="self"), "calibration", 2)


def test_readers_without_a_model_and_of_other_inputs_refuse_own_text(source):
    settings = Calibration(source="self", tokens=64, seqlen=16)
    for inputs in ("tokens", "masked"):
        reader = MODALITIES[inputs]
        with pytest.raises(UserInputError, match="a language model writes itself, which predicts the next token"):
            reader.calibration(settings, source.tokenizer(), source.config(), 64)
    with pytest.raises(UserInputError, match="unknown source of text pairs"):
        MODALITIES["pairs"].calibration(settings, source.tokenizer(), source.config(), 64)


def test_a_checkpoint_is_calibrated_on_a_mixture_and_looked_at_on_its_first_named_text(source, text, tmp_path):
    given = {"ffn": {"size": 24}, "calibration": {"source": f"self:1,{text}:1", "tokens": 256, "seqlen": 16}}
    record = compress(str(source.folder), parse_recipe(given), tmp_path / "out").record
    assert record["calibration"]["source"] == f"self:1,{text}:1"
    assert record["evaluation"][0]["protocol"]["source"] == text
