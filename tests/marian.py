"""Tiny Marian models with tokenizers of SentencePiece, trained on a page of text."""

import io
import json
from functools import cache
from pathlib import Path

import sentencepiece
import torch
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

from contract.families import randomise

ENGLISH = """
The quick brown fox jumps over the lazy dog; the dog, being lazy, does not jump over the fox.
A small model has a large vocabulary, and the largest part of a small model is the table of its vocabulary.
The old man reads the book in the small house by the river, and the river is quick and brown.
A book has a thousand words, and a word has no more than a few letters. 0123456789
""".strip()

GERMAN = """
Der schnelle braune Fuchs springt über den faulen Hund; der Hund ist faul und springt nicht über den Fuchs.
Ein kleines Modell hat ein großes Vokabular, und der größte Teil eines kleinen Modells ist die Tabelle dazu.
Der alte Mann liest das Buch im kleinen Haus am Fluß, und der Fluß ist schnell und braun.
Ein Buch hat tausend Wörter, und ein Wort hat nur ein paar Buchstaben. 0123456789
""".strip()

PAIRS = list(zip(ENGLISH.splitlines(), GERMAN.splitlines(), strict=True))


@cache
def piece_model(text: str, kind: str) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.splitlines() * 9),
        model_writer=written,
        vocab_size=110,
        model_type=kind,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return written.getvalue()


def vocabulary_of(*models: bytes, without: tuple[str, ...] = ()) -> dict[str, int]:
    """The pieces of some models, each once, as Marian lists them."""
    tokens = ["</s>", "<unk>", "<pad>", ">>deu<<", ">>eng<<"]
    for model in models:
        read = sentencepiece.SentencePieceProcessor(model_proto=model)
        tokens += [read.id_to_piece(n) for n in range(3, read.get_piece_size())]
    return {token: number for number, token in enumerate(t for t in dict.fromkeys(tokens) if t not in without)}


def marian_tokenizer(folder: Path, *, apart: bool, kind: str = "unigram", without: tuple[str, ...] = ()):
    """A tokenizer with one list of tokens, or one for each side; some pieces are in no list."""
    folder.mkdir(parents=True, exist_ok=True)
    models = [piece_model(text, kind) for text in (ENGLISH, GERMAN)]
    for name, model in zip(("source.spm", "target.spm"), models, strict=True):
        (folder / name).write_bytes(model)
    groups = [models[:1], models[1:]] if apart else [models]
    for name, group in zip(("vocab.json", "target_vocab.json"), groups, strict=False):
        (folder / name).write_text(json.dumps(vocabulary_of(*group, without=without)))
    config = {"tokenizer_class": "MarianTokenizer", "separate_vocabs": apart}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return MarianTokenizer.from_pretrained(folder)


def marian_model(tokenizer: MarianTokenizer) -> MarianMTModel:
    """A random model for it, with padded rows, and a bias for every token that it writes."""
    apart = tokenizer.separate_vocabs
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
    ids = {"pad_token_id": 2, "eos_token_id": 0, "decoder_start_token_id": 2, "forced_eos_token_id": 0}
    config = MarianConfig(
        vocab_size=len(tokenizer.encoder) + 3,
        decoder_vocab_size=len(tokenizer.target_encoder) + 5 if apart else None,
        share_encoder_decoder_embeddings=not apart,
        **sizes | heads | ids,
    )
    torch.manual_seed(0)
    model = randomise(MarianMTModel(config).eval())
    model.final_logits_bias.normal_()
    model.generation_config.bad_words_ids = [[2], [7]]
    return model
