"""SentencePiece's model files: a protocol buffer whose first field lists the pieces in the order of their ids.

Source: sentencepiece_model.proto.  Pieces are kept byte for byte, so their scores and kinds are; of the rest only the
numbers in the trainer's section change that name pieces by id.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuromeld.errors import CheckpointError

PIECES, TRAINER = 1, 2
"""Fields of the model."""

VOCAB_SIZE, IDS = 4, (40, 41, 42, 43)
"""Fields of the trainer's section: how many pieces there are; those of unknown, start, end and padding."""

RULE, BYTE_FALLBACK = 3, 35
"""Fields of the trainer's section: how texts are split, and whether into bytes where nothing else fits."""

TEXT, SCORE, KIND = 1, 2, 3
"""Fields of a piece."""

NORMAL, USER_DEFINED, BYTE = 1, 4, 6
"""Kinds of pieces that texts are split into."""

UNIGRAM, BPE, WORD = 1, 2, 3
"""How texts are split."""

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
NOTHING = 2**64 - 1
"""The id -1, as a protocol buffer writes it: there is no such piece."""

Field = tuple[int, int, bytes]
"""Number, wire type and content; of a varint its bytes."""


@dataclass(frozen=True)
class Piece:
    """One piece, the score that it is chosen by, and its kind."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class PieceModel:
    """Hold what a model file says: its pieces in the order of their ids, and how texts are split."""

    pieces: tuple[Piece, ...]
    rule: int
    byte_fallback: bool


def read_model(data: bytes) -> PieceModel:
    """Return what a model file holds, which SentencePiece itself has read."""
    fields = list(_fields(data))
    trainer = {
        number: content for section, _, part in fields if section == TRAINER for number, _, content in _fields(part)
    }
    rule, in_bytes = (_number(trainer[name]) if name in trainer else None for name in (RULE, BYTE_FALLBACK))
    return PieceModel(
        tuple(_piece(content) for number, _, content in fields if number == PIECES), rule or UNIGRAM, bool(in_bytes)
    )


def _piece(data: bytes) -> Piece:
    found = {number: content for number, _, content in _fields(data)}
    (score,) = struct.unpack("<f", found.get(SCORE, bytes(4)))
    return Piece(found[TEXT].decode(), score, _number(found[KIND]) if KIND in found else NORMAL)


def keep_tokens(path: Path, kept: Mapping[int, str]) -> bytes:
    """Return the model file with the pieces of the tokens `kept` alone, whose texts are given by their ids.

    Where the file numbers its pieces otherwise than the tokenizer does, as mBART's, they are found by their texts, and
    all stay that stand for no text.  Raises `CheckpointError` for a file that is none.
    """
    try:
        pieces = read_model(path.read_bytes()).pieces
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise CheckpointError(f"{path} is no model of SentencePiece: {error}") from error
    own = [old for old in kept if old < len(pieces)]
    if 2 * sum(pieces[old].text == kept[old] for old in own) > len(own):
        return keep_pieces(path, own)
    texts, of_text = set(kept.values()), (NORMAL, USER_DEFINED, BYTE)
    return keep_pieces(path, [n for n, one in enumerate(pieces) if one.text in texts or one.kind not in of_text])


def keep_pieces(path: Path, kept: Sequence[int]) -> bytes:
    """Return the model file with the pieces `kept` alone, by their ids in ascending order.

    Ids beyond the file's own pieces are those of tokens that were added elsewhere.  Raises `CheckpointError` for a file
    that is none.
    """
    try:
        fields = list(_fields(path.read_bytes()))
        pieces = [content for number, _, content in fields if number == PIECES]
        own = [old for old in kept if old < len(pieces)]
        new_id = {old: new for new, old in enumerate(own)}
        found = b"".join(_written((PIECES, LENGTH, pieces[old])) for old in own)
        for number, wire, content in fields:
            if number != PIECES:
                found += _written((number, wire, _trainer(content, new_id) if number == TRAINER else content))
    except (IndexError, ValueError) as error:
        raise CheckpointError(f"{path} is no model of SentencePiece: {error}") from error
    return found


def _trainer(section: bytes, new_id: dict[int, int]) -> bytes:
    """Return the trainer's section with ids renumbered; those of pieces that went are set to none."""
    found = b""
    for number, wire, content in _fields(section):
        if number == VOCAB_SIZE:
            content = _varint(len(new_id))
        elif number in IDS:
            content = _varint(new_id.get(_number(content), NOTHING))
        found += _written((number, wire, content))
    return found


def _fields(data: bytes) -> Iterator[Field]:
    at = 0
    while at < len(data):
        key, at = _read(data, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            start, (_, at) = at, _read(data, at)
            yield number, wire, data[start:at]
            continue
        if wire not in (FIXED64, LENGTH, FIXED32):
            raise ValueError(f"a field of wire type {wire}")
        length, at = _read(data, at) if wire == LENGTH else (8 if wire == FIXED64 else 4, at)
        if at + length > len(data):
            raise ValueError("it ends within a field")
        yield number, wire, data[at : at + length]
        at += length


def _read(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that starts at a place, seven bits a byte from the lowest, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _number(content: bytes) -> int:
    return _read(content, 0)[0]


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes((*found, value))


def _written(field: Field) -> bytes:
    number, wire, content = field
    length = _varint(len(content)) if wire == LENGTH else b""
    return _varint(number << 3 | wire) + length + content
