"""Small tokenizers of every kind whose vocabulary can be cut, trained on a page of text."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = """
The quick brown fox jumps over the lazy dog; the dog, being lazy, does not jump over the fox. A small model has a
large vocabulary, and the largest part of a small model is the table of its vocabulary. Die Straße führt über die
Brücke zum größten Haus der Stadt, und der Fuchs läuft über die Straße. Les élèves étudient à l'école près du château.
def compress(model, ratio=0.5): return [layer for layer in model.layers if layer.kept]  # 0123456789
""".strip()

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def _end_of_word() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=260, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def _metaspace(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _byte_fallback() -> Tokenizer:
    tokenizer = _metaspace(Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)))
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=SPECIAL + BYTES, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][: len(SPECIAL)]  # bytes are tokens of the model alone
    return Tokenizer.from_str(json.dumps(content))


def _unigram(*, byte_fallback: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False, shrinking_factor=0.9
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    if not byte_fallback:
        return tokenizer
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"] += [[byte, -12.0] for byte in BYTES]
    content["model"]["byte_fallback"] = True
    return _metaspace(Tokenizer.from_str(json.dumps(content | {"pre_tokenizer": None})))


def _word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=260, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    ids = {token: tokenizer.token_to_id(token) for token in ("<s>", "</s>")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=list(ids.items())
    )
    return tokenizer


KINDS = {
    "byte-level": _byte_level,
    "end-of-word": _end_of_word,
    "byte-fallback": _byte_fallback,
    "unigram": lambda: _unigram(byte_fallback=False),
    "unigram-bytes": lambda: _unigram(byte_fallback=True),
    "word-piece": _word_piece,
}


@cache
def trained(kind: str) -> Tokenizer:
    """Return the tokenizer of a kind."""
    return KINDS[kind]()


def content_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what tokenizer.json would hold."""
    found: dict[str, Any] = json.loads(tokenizer.to_str())
    return found


def save_byte_level(folder: Path) -> str:
    """Write a tiny Llama with a tokenizer of bytes, and a text of a part of its tokens; return the text's source."""
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=420, tie_word_embeddings=True, **sizes)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=trained("byte-level"), eos_token="</s>").save_pretrained(folder)
    documents = [json.dumps({"text": " ".join([TEXT[:200]] * 12) + str(n)}) for n in range(60)]
    text = folder.with_name(f"{folder.name}.jsonl")
    text.write_text("\n".join(documents))
    return f"file:{text}"
