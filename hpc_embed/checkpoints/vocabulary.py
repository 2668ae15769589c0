"""A checkpoint's vocabulary and special tokens, as its tokenizer's files say: vocab.txt, tokenizer.json, vocab.json,
or a SentencePiece model, which is read without its library. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from hpc_embed.checkpoints.files import DAMAGED, read, read_json
from hpc_embed.errors import EnvironmentFault

PIECE_MARK = "▁"
"""What SentencePiece puts in front of a word."""
VARINT, LENGTH_DELIMITED = 0, 2
FIXED_BYTES = {1: 8, 5: 4}
OTHER_VOCABULARIES = ("tokenizer.model", "sentencepiece.bpe.model", "bpe.codes")
OF_BYTES = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
"""Tokenizers that are code alone."""
LETTERS = tuple(map(chr, range(ord("A"), ord("Z") + 1)))


class Vocabulary(NamedTuple):
    """What the tokenizer's files say."""

    ids: Mapping[str, int]
    special: Mapping[str, str | None]
    """The special tokens that the files name, as `cls_token`; None for one that they rule out."""
    source: str
    """The file's name, for people."""

    def name_of(self, token: int) -> str:
        """The token's text, for people."""
        return next((repr(name) for name, at in self.ids.items() if at == token), "nothing")

    def id_of_letter(self, letter: str) -> int | None:
        """The token of a letter by itself, also as SentencePiece writes it; None where it has none."""
        return next((self.ids[name] for name in (PIECE_MARK + letter, letter) if name in self.ids), None)


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """The vocabulary; None where the folder has no file of one.

    Raises EnvironmentFault for a file that is none, and for two that contradict each other.
    """
    found = {name: read(folder / name, parse) for name, parse in PARSERS.items() if (folder / name).is_file()}
    if not found:
        return None
    source, ids = next(iter(found.items()))
    for other, its_ids in found.items():
        for name in ids.keys() & its_ids.keys():
            if ids[name] != its_ids[name]:
                raise EnvironmentFault(
                    f"{folder}: {name!r} is token {ids[name]} in {source} and {its_ids[name]} in {other}.",
                    remedy=DAMAGED,
                )
    if (folder / "added_tokens.json").is_file():
        ids = ids | read(folder / "added_tokens.json", _of_ids)
    return Vocabulary(ids, _special(folder), source)


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder brings the files of a tokenizer, or names one that needs none; transformers makes one up where
    it finds nothing."""
    if any((folder / name).is_file() for name in (*PARSERS, *OTHER_VOCABULARIES)):
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and read_json(path).get("tokenizer_class") in OF_BYTES


def _special(folder: Path) -> dict[str, str | None]:
    said: dict[str, object] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            said |= read_json(folder / name)
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in said.items()}
    return {
        name: text
        for name, text in texts.items()
        if name.endswith("_token") and (text is None or isinstance(text, str))
    }


def _of_ids(content: bytes) -> dict[str, int]:
    return {str(name): int(token) for name, token in json.loads(content).items()}


def _lines(content: bytes) -> dict[str, int]:
    """The line's number is the token, as BERT and ESM have it."""
    return {line.strip(): at for at, line in enumerate(content.decode("utf-8").splitlines())}


def pieces_of_model(content: bytes) -> Iterator[str]:
    """The pieces of a SentencePiece ModelProto in the order of their ids: its field 1, whose field 1 is the text."""
    for number, value in _fields(content):
        if number == 1:
            yield next(text for inner, text in _fields(value) if inner == 1).decode("utf-8")


def _of_tokenizer_json(content: bytes) -> dict[str, int]:
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


PARSERS = {
    "tokenizer.json": _of_tokenizer_json,
    "vocab.txt": _lines,
    "spiece.model": lambda content: {piece: at for at, piece in enumerate(pieces_of_model(content))},
    "vocab.json": _of_ids,
}
"""The files of a vocabulary; of several the first counts, as it does for transformers."""
