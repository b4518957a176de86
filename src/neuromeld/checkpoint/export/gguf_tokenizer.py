"""A tokenizer of transformers in the terms of llama.cpp."""

import json
from typing import Any

import gguf
from transformers import PreTrainedTokenizerBase

from neuromeld.checkpoint.export.gguf_families import Metadata
from neuromeld.errors import UnsupportedModelError

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")

SPLITS = {
    ("words",): "gpt-2",
    ("digits", "words"): "smollm",
    (LLAMA3, "bytes"): "smaug-bpe",
    (QWEN2, "bytes"): "qwen2",
}
"""llama.cpp's names of the ways that byte-level tokenizers split text before they merge; it finds them by a hash of
tokens, which a trimmed vocabulary changes, so here they are told by the splits themselves."""

WHOLE_WORDS = {"smaug-bpe": "llama-bpe"}
"""The same split where a word that is a token is not merged."""

IDS = {"bos": "bos_token_id", "eos": "eos_token_id", "unknown": "unk_token_id", "padding": "pad_token_id"}


def tokenizer_metadata(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Metadata:
    """Return the metadata `tokenizer.*` of a GGUF file.

    vocab_size   rows of the embedding; tokens that the tokenizer lacks are called unused

    Raises `UnsupportedModelError` for a tokenizer that llama.cpp has no counterpart of.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UnsupportedModelError("the tokenizer is no fast one of transformers, and no other kind can be written")
    state = json.loads(backend.to_str())
    if state["model"].get("type") != "BPE":
        raise UnsupportedModelError(f"llama.cpp has no tokenizer like this one ({state['model'].get('type')})")
    found = _pieces(state, vocab_size) if state["model"].get("byte_fallback") else _bytes(state)
    found |= _tokens(state, vocab_size)
    for name, attribute in IDS.items():
        if (number := getattr(tokenizer, attribute, None)) is not None:
            found[f"ggml.{name}_token_id"] = number
    ids = tokenizer("a")["input_ids"]
    found["ggml.add_bos_token"] = bool(ids) and ids[0] == tokenizer.bos_token_id
    found["ggml.add_eos_token"] = bool(ids) and ids[-1] == tokenizer.eos_token_id
    if isinstance(tokenizer.chat_template, str):
        found["chat_template"] = tokenizer.chat_template
    return {f"tokenizer.{key}": value for key, value in found.items()}


def _bytes(state: dict[str, Any]) -> Metadata:
    """Byte-level merges, as of GPT-2."""
    split = SPLITS.get(_split_of(state["pre_tokenizer"]))
    normalised = (state.get("normalizer") or {"type": "NFC"})["type"]
    if split is None or normalised != "NFC":
        raise UnsupportedModelError(
            "the tokenizer prepares text in a way that has no name in llama.cpp, or none that is known here "
            f"(normalizer {json.dumps(state['normalizer'])}, pre_tokenizer {json.dumps(state['pre_tokenizer'])})"
        )
    if state["model"].get("ignore_merges"):
        split = WHOLE_WORDS.get(split, split)
    return {"ggml.model": "gpt2", "ggml.pre": split, "ggml.merges": [_merge(pair) for pair in state["model"]["merges"]]}


def _split_of(pre: dict[str, Any] | None) -> tuple[str, ...]:
    steps = [] if pre is None else pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]
    found = []
    for step in steps:
        if step["type"] == "ByteLevel" and not step["add_prefix_space"]:
            found.append("words" if step["use_regex"] else "bytes")
        elif step["type"] == "Digits" and step["individual_digits"]:
            found.append("digits")
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            found.append(step["pattern"].get("Regex", ""))
        else:
            found.append("")
    return tuple(found)


def _pieces(state: dict[str, Any], vocab_size: int) -> Metadata:
    """Merges of pieces, as of SentencePiece: the best score first, so a token's is the rank of its merge, negated."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(state["model"]["merges"]):
        ranks.setdefault("".join(_pair(pair)), rank)
    scores = [-float(len(ranks))] * vocab_size
    for token, number in state["model"]["vocab"].items():
        scores[number] = -float(ranks.get(token, len(ranks)))
    told = json.dumps([state["normalizer"], state["pre_tokenizer"]])
    prefixed = any(word in told for word in ('"Prepend"', '"prepend_scheme": "first"', '"prepend_scheme": "always"'))
    return {"ggml.model": "llama", "ggml.pre": "default", "ggml.scores": scores, "ggml.add_space_prefix": prefixed}


def _pair(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _merge(pair: str | list[str]) -> str:
    return " ".join(_pair(pair))


def _tokens(state: dict[str, Any], vocab_size: int) -> Metadata:
    """Return every token with its kind, by its number."""
    kinds, unknown = gguf.TokenType, state["model"].get("unk_token")
    tokens = [f"[PAD{number}]" for number in range(vocab_size)]
    types = [int(kinds.UNUSED)] * vocab_size
    by_pieces = bool(state["model"].get("byte_fallback"))
    for token, number in state["model"]["vocab"].items():
        is_byte = by_pieces and len(token) == 6 and token.startswith("<0x")
        tokens[number], types[number] = token, int(kinds.BYTE if is_byte else kinds.NORMAL)
    for added in state["added_tokens"]:
        special = added["special"]
        kind = kinds.UNKNOWN if by_pieces and added["content"] == unknown else kinds.CONTROL
        tokens[added["id"]], types[added["id"]] = added["content"], int(kind if special else kinds.USER_DEFINED)
    return {"ggml.tokens": tokens, "ggml.token_type": types}
