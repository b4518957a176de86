"""mT5 and mBART: encoder-decoders with one vocabulary for many languages, a head of its own, codes and sentinels."""

import io
import json
from copy import deepcopy
from functools import cache

import pytest
import sentencepiece
import torch
from transformers import (
    AutoTokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Tokenizer,
)

from contract.families import randomise
from marian import ENGLISH, GERMAN, PAIRS
from neuromeld import compress_model, make_plan, parse_recipe
from neuromeld.checkpoint import save_checkpoint
from neuromeld.evaluation import unique_parameters
from neuromeld.stages.vocabulary.files import write_other_files

FILES = {"mt5": "spiece.model", "mbart": "sentencepiece.bpe.model"}
SENTINELS = [f"<extra_id_{number}>" for number in range(7, -1, -1)]


@cache
def pieces() -> tuple[bytes, list[tuple[str, float]]]:
    """A SentencePiece model of both languages, and its pieces but the three special ones."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(f"{ENGLISH}\n{GERMAN}".splitlines() * 9),
        model_writer=written,
        vocab_size=160,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    read = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    return written.getvalue(), [(read.id_to_piece(n), read.get_score(n)) for n in range(3, read.get_piece_size())]


@cache
def whole(kind: str):
    """A random model, with padded rows, and its tokenizer."""
    torch.manual_seed(0)
    if kind == "mt5":
        special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
        tokenizer = T5Tokenizer(vocab=[*special, *pieces()[1], *((one, 0.0) for one in SENTINELS)], extra_ids=8)
        sizes = {"d_model": 16, "d_ff": 24, "num_layers": 2, "num_heads": 2, "d_kv": 8, "decoder_start_token_id": 0}
        config = MT5Config(vocab_size=len(tokenizer) + 5, tie_word_embeddings=False, **sizes)
        return randomise(MT5ForConditionalGeneration(config).eval()), tokenizer
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab = [*special, *pieces()[1], *((one, 0.0) for one in MBartTokenizer().lang_code_to_id), ("<mask>", 0.0)]
    tokenizer = MBartTokenizer(vocab=vocab, src_lang="en_XX", tgt_lang="de_DE")
    sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    sizes |= {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64}
    german = tokenizer.convert_tokens_to_ids("de_DE")
    config = MBartConfig(vocab_size=len(tokenizer) + 3, decoder_start_token_id=german, forced_eos_token_id=2, **sizes)
    model = randomise(MBartForConditionalGeneration(config).eval())
    model.final_logits_bias.normal_()
    model.generation_config.forced_bos_token_id = german
    return model, tokenizer


def text_in(folder, kind: str) -> str:
    """The pages as pairs of a source and a target, or as plain texts."""
    path = folder / f"{kind}.jsonl"
    rows = [(f"{source} {n}", f"{target} {n}") for n in range(20) for source, target in PAIRS[:2]]
    named = [{"source": a, "target": b} if kind == "pairs" else {"text": f"{a} {b}"} for a, b in rows]
    path.write_text("\n".join(map(json.dumps, named)))
    return f"file:{path}"


@pytest.mark.parametrize("text", ["pairs", "plain"])
@pytest.mark.parametrize("kind", ["mt5", "mbart"])
def test_logits_and_tokens_are_as_before_and_the_result_is_stock(kind, text, tmp_path):
    full, tokenizer = whole(kind)
    model = deepcopy(full)
    recipe = parse_recipe({"vocabulary": {"text": text_in(tmp_path, text), "ratio": 0.85}})
    plan = make_plan(model, recipe)
    assert plan.format == "stock"
    data = [{name: torch.randint(60, (64, 9)) for name in ("input_ids", "decoder_input_ids")}] * 4
    done = compress_model(model, plan, data, processor=tokenizer)
    vocabulary = done.results["vocabulary"].vocabulary
    kept = torch.tensor(vocabulary.kept)
    assert unique_parameters(model) == plan.parameters_after < plan.parameters_before
    out, source = tmp_path / "out", tmp_path / "source"
    out.mkdir()
    source.mkdir()
    (source / FILES[kind]).write_bytes(pieces()[0])
    save_checkpoint(model, done.processor, out, recipe_yaml=None)
    write_other_files(vocabulary, source, out)
    again, reader = type(full).from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    assert type(reader) is type(tokenizer)
    ids, targets = torch.randint(len(kept), (2, 7)), torch.randint(len(kept), (2, 5))
    new = again(input_ids=ids, decoder_input_ids=targets).logits
    torch.testing.assert_close(new, full(input_ids=kept[ids], decoder_input_ids=kept[targets]).logits[..., kept])
    for line, side in (("the quick fox", "text"), ("der Fuchs springt", "text_target"), ("Zebra", "text")):
        old, says = (one(**{side: line})["input_ids"] for one in (tokenizer, reader))
        if set(old) <= set(vocabulary.kept):
            assert kept[says].tolist() == old
        assert reader.decode(says) == tokenizer.decode(old)
    _check_special(kind, again, reader, full, kept)
    read = sentencepiece.SentencePieceProcessor(model_proto=(out / FILES[kind]).read_bytes())
    assert read.encode("the quick fox", out_type=str) == reader.tokenize("the quick fox")
    own = {read.id_to_piece(number) for number in range(read.get_piece_size())}
    assert own - {"<s>", "</s>", "<unk>"} == set(reader.get_vocab()) - set(reader.all_special_tokens)


def _check_special(kind, again, reader, full, kept) -> None:
    """Codes of languages, sentinels and the ids that configs name stay, and what is written is the same."""
    names = SENTINELS if kind == "mt5" else ["de_DE", "en_XX", "<mask>"]
    known = {token: kept[number].item() for token, number in reader.get_vocab().items()}
    before = whole(kind)[1].get_vocab()
    assert known.items() <= before.items()
    assert known.keys() >= {*names, "</s>", "<unk>", "<pad>"}
    stated = [(one.config, one.generation_config) for one in (again, full)]
    for new, old in zip(*stated, strict=True):
        for key in ("pad_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id"):
            if getattr(old, key, None) is not None:
                assert kept[getattr(new, key)] == getattr(old, key)
    gone = sorted(set(range(full.config.vocab_size)) - set(kept.tolist()))
    ids = torch.tensor([reader("the quick fox")["input_ids"]])
    written = full.generate(kept[ids], max_new_tokens=6, num_beams=1, suppress_tokens=gone)
    assert kept[again.generate(ids, max_new_tokens=6, num_beams=1)].tolist() == written.tolist()
