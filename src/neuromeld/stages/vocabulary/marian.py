"""Marian's tokenizers: a model of SentencePiece for each side, whose pieces are looked up in a list of tokens.

There is one list for both sides, or one for each.  What is not in it is unknown, whichever piece it is.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from neuromeld.errors import UnsupportedModelError
from neuromeld.stages.vocabulary.pieces import BYTES, BytePair, Pieces, Unigram, closed
from neuromeld.stages.vocabulary.sentencepiece import (
    BPE,
    BYTE,
    NORMAL,
    USER_DEFINED,
    WORD,
    PieceModel,
    keep_pieces,
    read_model,
)

MODELS = ("source.spm", "target.spm")
LISTS = ("vocab.json", "target_vocab.json")


class Splitter:
    """How one side splits texts, before its pieces are looked up among the tokens."""

    def __init__(self, model: PieceModel, tokens: Collection[str]) -> None:
        if model.rule == WORD:
            raise UnsupportedModelError(
                "the vocabulary of a SentencePiece model of whole words cannot be cut: nothing spells a word that is "
                "not in it"
            )
        self.model, self._tokens = model, tokens
        self.in_bytes = model.byte_fallback and all(byte in tokens for byte in BYTES)

    @cached_property
    def pieces(self) -> Pieces:
        """The pieces that texts are split into, as a model of `tokenizers`."""
        own = {p.text: p.score for p in self.model.pieces if p.kind in (NORMAL, USER_DEFINED, BYTE)}
        if self.model.rule != BPE:
            return Unigram({"vocab": list(own.items()), "byte_fallback": self.in_bytes})
        halves = ((piece[:end], piece[end:]) for piece in own for end in range(1, len(piece)))
        merges = [(left, right) for left, right in halves if left in own and right in own]
        return BytePair({"vocab": dict.fromkeys(own, 0), "merges": merges, "byte_fallback": self.in_bytes})

    def always(self) -> set[str]:
        """Return the pieces without which some text were split otherwise, or not known any more."""
        normal = {piece.text: piece.score for piece in self.model.pieces if piece.kind == NORMAL}
        found = self.pieces.always() | {piece.text for piece in self.model.pieces if piece.kind == BYTE}
        given = {piece.text for piece in self.model.pieces if piece.kind == USER_DEFINED}
        if given:  # their score follows the highest
            found |= given | {max(normal, key=normal.__getitem__)}
        letters = {piece for piece in normal if len(piece) == 1 and piece in self._tokens}
        return found if self.in_bytes else found | {piece for piece in normal if not letters.issuperset(piece)}

    def left(self, tokens: Collection[str]) -> list[int]:
        """Return the pieces that stay, by their ids, where only these tokens are in the list."""
        single = {piece for piece in self.pieces.always() if len(piece) == 1}
        stay = closed(self.pieces, (self.always() & set(tokens)) | single | (self.pieces.ids.keys() & set(tokens)))
        return [n for n, piece in enumerate(self.model.pieces) if piece.kind != NORMAL or piece.text in stay]


class LookedUp(Pieces):
    """A list of tokens that the pieces of one side, or of both, are looked up in."""

    kind = "Marian"

    def __init__(self, vocab: Mapping[str, int], models: Sequence[PieceModel]) -> None:
        super().__init__({"vocab": vocab})
        self.splitters = [Splitter(model, vocab) for model in models]

    @property
    def ids(self) -> Mapping[str, int]:
        """The id of each token."""
        found: Mapping[str, int] = self.model["vocab"]
        return found

    def always(self) -> set[str]:
        """Return what each side needs, and the codes of languages, which are looked up as they stand."""
        codes = {token for token in self.ids if token.startswith(">>") and token.endswith("<<")}
        return codes.union(*(splitter.always() for splitter in self.splitters)) & self.ids.keys()

    def needs(self, token: str) -> Collection[str]:
        """Return what each side makes the token from."""
        found: set[str] = set()
        return found.union(*(splitter.pieces.needs(token) for splitter in self.splitters)) & self.ids.keys()

    def keep(self, tokens: Sequence[str]) -> dict[str, Any]:
        """Return the list of these tokens."""
        return {token: number for number, token in enumerate(tokens)}


def pieces_of_marian(tokenizer: Any) -> tuple[LookedUp, ...]:
    """Return the tokens of both sides, or those of each.

    Raises `UnsupportedModelError` where two lists number a special token in two ways, as texts have one number for it.
    """
    source, target = (read_model(spm.serialized_model_proto()) for spm in (tokenizer.spm_source, tokenizer.spm_target))
    if not tokenizer.separate_vocabs:
        return (LookedUp(tokenizer.encoder, (source, target)),)
    names = {number: token for token, number in tokenizer.target_encoder.items()}
    for token, number in tokenizer.added_tokens_encoder.items():
        if names.get(number, token) != token or tokenizer.target_encoder.get(token, number) != number:
            raise UnsupportedModelError(
                f"{token} is number {number} in vocab.json and another one in target_vocab.json: the vocabularies of "
                "such a model cannot be cut"
            )
    return LookedUp(tokenizer.encoder, (source,)), LookedUp(tokenizer.target_encoder, (target,))


def cut_files(folder: Path, pieces: Sequence[LookedUp], kept: Sequence[Sequence[int]]) -> None:
    """Rewrite, in the folder of a tokenizer, the lists and the models for the tokens `kept` of each list."""
    splitters = [splitter for side in pieces for splitter in side.splitters]
    tokens: list[set[str]] = []
    for name, side, stay in zip(LISTS, pieces, kept, strict=False):
        names = {number: token for token, number in side.ids.items()}
        new_id = {names[old]: new for new, old in enumerate(stay) if old in names}
        (folder / name).write_text(json.dumps(new_id, ensure_ascii=False, indent=2), encoding="utf-8")
        tokens += [set(new_id)] * len(side.splitters)
    for name, splitter, left in zip(MODELS, splitters, tokens, strict=True):
        path = folder / name
        path.write_bytes(keep_pieces(path, splitter.left(left)))
