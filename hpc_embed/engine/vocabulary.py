"""A checkpoint's vocabulary: vocab.txt, tokenizer.json, or a SentencePiece model without its library."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from hpc_embed.errors import EnvironmentFault

T = TypeVar("T")
PIECE_MARK = "▁"
"""What SentencePiece puts in front of a word."""
VARINT, LENGTH_DELIMITED = 0, 2
FIXED_BYTES = {1: 8, 5: 4}


def read_vocab_txt(folder: Path) -> dict[str, int]:
    """Id of each line."""
    return _read(folder / "vocab.txt", lambda content: {n: i for i, n in enumerate(content.decode("utf-8").split())})


def read_pieces(folder: Path) -> dict[str, int]:
    """Id of each piece, and of what was added to them."""
    if (folder / "tokenizer.json").is_file():
        return _read(folder / "tokenizer.json", _pieces_of_json)
    ids = _read(folder / "spiece.model", lambda content: {n: i for i, n in enumerate(pieces_of_model(content))})
    added = folder / "added_tokens.json"
    return ids | (
        _read(added, lambda content: {str(n): int(i) for n, i in json.loads(content).items()})
        if added.is_file()
        else {}
    )


def pieces_of_model(content: bytes) -> Iterator[str]:
    """The pieces of a SentencePiece ModelProto in the order of their ids: its field 1, whose field 1 is the text."""
    for number, value in _fields(content):
        if number == 1:
            yield next(text for inner, text in _fields(value) if inner == 1).decode("utf-8")


def _pieces_of_json(content: bytes) -> dict[str, int]:
    tokenizer = json.loads(content)
    vocabulary = tokenizer["model"]["vocab"]  # pairs of piece and score, or ids by piece
    pieces = vocabulary if isinstance(vocabulary, dict) else {piece: at for at, (piece, _) in enumerate(vocabulary)}
    return pieces | {added["content"]: added["id"] for added in tokenizer.get("added_tokens", ())}


def _fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each length-delimited field of a protobuf message; others are passed over."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        if key & 7 == LENGTH_DELIMITED:
            length, at = _varint(content, at)
            yield key >> 3, content[at : at + length]
            at += length
        elif key & 7 == VARINT:
            _, at = _varint(content, at)
        else:
            at += FIXED_BYTES[key & 7]


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, low ones first, and where it ends."""
    number = shift = 0
    while content[at] & 0x80:
        number |= (content[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return number | content[at] << shift, at + 1


def _read(path: Path, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(path.read_bytes())
    except FileNotFoundError as error:
        raise EnvironmentFault(f"{path}: no such file.", remedy="Fetch the checkpoint again.") from error
    except (OSError, ValueError, KeyError, IndexError, TypeError, StopIteration, AttributeError) as error:
        raise EnvironmentFault(f"{path}: cannot be read ({error}).", remedy="Fetch the checkpoint again.") from error
