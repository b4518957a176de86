"""The models of `tokenizers` whose vocabulary can be cut: what each needs of it, and how it is written with less.

Laws, for any set of tokens that holds `always` and, with a token, what it `needs`: every text is split; a text that was
split into tokens of the set is split into the same ones; what was known before is not unknown after.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from neuromeld.errors import UnsupportedModelError

BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
"""How SentencePiece names the tokens of single bytes."""


class Pieces(ABC):
    """The `model` of a tokenizer.json, and its tokens in the order of their ids."""

    kind: ClassVar[str]

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.model = model

    @property
    @abstractmethod
    def ids(self) -> Mapping[str, int]:
        """The id of each token."""

    @abstractmethod
    def always(self) -> set[str]:
        """Return the tokens without which some text could not be split any more."""

    def needs(self, token: str) -> Collection[str]:  # noqa: ARG002
        """Return the tokens that this one is made from, one step back."""
        return ()

    @abstractmethod
    def keep(self, tokens: Sequence[str]) -> dict[str, Any]:
        """Return the model with these tokens alone, numbered in this order."""

    def _letters(self) -> set[str]:
        """Return the tokens of single bytes where all other text falls back to these, else of single characters."""
        ids = self.ids
        if self.model.get("byte_fallback") and all(byte in ids for byte in BYTES):
            return set(BYTES)
        return {token for token in ids if len(self._bare(token)) == 1}

    def _bare(self, token: str) -> str:
        """Return a token without the marks of its place in a word."""
        return token


class BytePair(Pieces):
    """Byte-pair encoding, of bytes or of characters: pairs are merged in a fixed order (arXiv:1508.07909)."""

    kind = "BPE"

    def __init__(self, model: Mapping[str, Any]) -> None:
        super().__init__(model)
        self._prefix = model.get("continuing_subword_prefix") or ""
        self._suffix = model.get("end_of_word_suffix") or ""
        self._merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else merge for merge in model["merges"]]
        self._parents: dict[str, set[str]] = {}
        for left, right in self._merges:
            self._parents.setdefault(self._merged(left, right), set()).update((left, right))

    @property
    def ids(self) -> Mapping[str, int]:
        """The id of each token."""
        found: Mapping[str, int] = self.model["vocab"]
        return found

    def always(self) -> set[str]:
        """Return the alphabet, and the token of what is unknown."""
        unknown = self.model.get("unk_token")
        return self._letters() | {token for token in (unknown,) if token is not None and token in self.ids}

    def needs(self, token: str) -> Collection[str]:
        """Return both sides of every merge that makes it: which of these makes it in a text depends on the text."""
        return self._parents.get(token, ())

    def keep(self, tokens: Sequence[str]) -> dict[str, Any]:
        """Return the model with the merges among these tokens."""
        vocab = {token: number for number, token in enumerate(tokens)}
        merges = [[a, b] for a, b in self._merges if a in vocab and b in vocab and self._merged(a, b) in vocab]
        return dict(self.model) | {"vocab": vocab, "merges": merges}

    def _merged(self, left: str, right: str) -> str:
        return left + right.removeprefix(self._prefix)

    def _bare(self, token: str) -> str:
        return token.removeprefix(self._prefix).removesuffix(self._suffix) or token


class Unigram(Pieces):
    """Pieces with scores: a text is split where the sum of the scores is highest (arXiv:1804.10959)."""

    kind = "Unigram"

    @property
    def ids(self) -> Mapping[str, int]:
        """The id of each piece: its place."""
        return {piece: number for number, (piece, _) in enumerate(self.model["vocab"])}

    def always(self) -> set[str]:
        """Return the letters, the piece of what is unknown, and that of the lowest score, which its score follows."""
        pieces = self.model["vocab"]
        unknown = self.model.get("unk_id")
        lowest = min(pieces, key=lambda piece: piece[1])[0]
        return self._letters() | {lowest} | ({pieces[unknown][0]} if unknown is not None else set())

    def keep(self, tokens: Sequence[str]) -> dict[str, Any]:
        """Return the model with these pieces."""
        scores = dict(self.model["vocab"])
        unknown = self.model.get("unk_id")
        name = None if unknown is None else self.model["vocab"][unknown][0]
        found = {"vocab": [[token, scores[token]] for token in tokens]}
        return dict(self.model) | found | {"unk_id": None if name is None else tokens.index(name)}


class WordPiece(Pieces):
    """The longest piece that fits, again and again; a word with a place where none fits is unknown."""

    kind = "WordPiece"

    @property
    def ids(self) -> Mapping[str, int]:
        """The id of each piece."""
        found: Mapping[str, int] = self.model["vocab"]
        return found

    def always(self) -> set[str]:
        """Return the letters, at the start of a word and in it, the unknown, and pieces that letters cannot spell."""
        letters = self._letters()
        unspelt = {piece for piece in self.ids if not letters.issuperset(self._spelling(piece))}
        return letters | unspelt | ({self.model["unk_token"]} & self.ids.keys())

    def keep(self, tokens: Sequence[str]) -> dict[str, Any]:
        """Return the model with these pieces."""
        return dict(self.model) | {"vocab": {token: number for number, token in enumerate(tokens)}}

    def _bare(self, token: str) -> str:
        return token.removeprefix(self.model["continuing_subword_prefix"]) or token

    def _spelling(self, piece: str) -> list[str]:
        """Return the pieces of single characters that spell a piece."""
        prefix = self.model["continuing_subword_prefix"]
        inside = piece.startswith(prefix) and piece != prefix
        letters = self._bare(piece)
        return [letter if n == 0 and not inside else prefix + letter for n, letter in enumerate(letters)]


KINDS: dict[str, type[Pieces]] = {kind.kind: kind for kind in (BytePair, Unigram, WordPiece)}


def pieces_of(content: Mapping[str, Any]) -> Pieces:
    """Return the model in a tokenizer.json.  `UnsupportedModelError` for a kind that cannot be cut."""
    model = content["model"]
    kind = model.get("type") or _guessed(model)
    if kind not in KINDS:
        raise UnsupportedModelError(
            f"the vocabulary of a {kind} tokenizer cannot be cut: nothing spells a word that is not in it; "
            f"{', '.join(KINDS)} can be"
        )
    return KINDS[kind](model)


def _guessed(model: Mapping[str, Any]) -> str:
    """Return the kind of a model whose file is so old that it does not say."""
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def closed(pieces: Pieces, tokens: Collection[str]) -> set[str]:
    """Return the tokens and all that these are made from."""
    found: set[str] = set()
    left = list(tokens)
    while left:
        token = left.pop()
        if token not in found:
            found.add(token)
            left += pieces.needs(token)
    return found
