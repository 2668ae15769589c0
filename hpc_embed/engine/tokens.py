"""Sequences to tokens, as a family says: a byte table, k-mers, or a byte-pair encoding.

Each letter outside a vocabulary becomes one <unk>; transformers' tokenizers fold a run of them into one, which
loses their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hpc_embed.checkpoints.vocabulary import PIECE_MARK, read_vocabulary
from hpc_embed.engine.bytepairs import BpeTokenizer, read_bpe_tokenizer, untrained_bpe_json
from hpc_embed.engine.kmers import KmerTokeniser
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families.family import BytePairs, Family, Kmers, Pieces, Residues, Shape, Special


class Tokeniser(Protocol):
    """Sequences to tokens."""

    special: Special
    """Tokens at either end of each window that stand for no residue."""
    letters_V: NDArray[np.uint8]
    """How many letters each token stands for, none for a special one."""

    def __call__(self, sequences: Sequence[bytes]) -> Sequence[NDArray[np.integer]]:
        """The tokens of each sequence, special ones included."""


class ByteTable:
    """A token a letter."""

    def __init__(self, ids: Mapping[str, int], unknown: int, front: Sequence[int], back: Sequence[int]) -> None:
        largest = max(*ids.values(), unknown, *front, *back)
        self._table = np.full(256, unknown, dtype=np.min_scalar_type(largest))
        for letter, token in ids.items():
            self._table[ord(letter)] = token
        self._front, self._back = front, back
        self.letters_V = np.ones(largest + 1, dtype=np.uint8)
        self.letters_V[[*front, *back]] = 0
        self.special = Special(len(front), len(back))

    def __call__(self, sequences: Sequence[bytes]) -> list[NDArray[np.integer]]:
        """Front, a token per letter, back for each sequence."""
        joined: NDArray[np.integer] = self._table[np.frombuffer(b"".join(sequences), dtype=np.uint8)]
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        stops = np.cumsum(lengths + self.special.total)
        starts = stops - lengths - self.special.total
        row = np.zeros_like(self._table, shape=int(stops[-1]) if len(stops) else 0)
        is_letter = np.ones(len(row), dtype=bool)
        special = [(starts + at, token) for at, token in enumerate(self._front)]
        special += [(stops - len(self._back) + at, token) for at, token in enumerate(self._back)]
        for places, token in special:
            row[places], is_letter[places] = token, False
        row[is_letter] = joined
        return [row[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]


def residue_table(residues: Residues) -> ByteTable:
    """The table of a vocabulary that is the same in every checkpoint."""
    ids = {name: token for token, name in enumerate(residues.vocabulary)}
    letters = {name: token for name, token in ids.items() if len(name) == 1}
    return ByteTable(letters, ids[residues.unknown], [ids[residues.front]], [ids[residues.back]])


def piece_table(pieces: Pieces, ids: Mapping[str, int]) -> ByteTable:
    """The table of a SentencePiece vocabulary of single letters."""
    letters = {
        letter: ids[name]
        for letter in map(chr, range(ord("A"), ord("Z") + 1))
        for name in (PIECE_MARK + letter, letter)[::-1]
        if name in ids
    }
    letters |= {letter: letters[other] for letter, other in pieces.rewritten.items() if other in letters}
    missing = [name for name in (pieces.back, pieces.unknown) if name not in ids]
    if missing or not letters:
        raise EnvironmentFault(
            f"the tokenizer has no {', '.join(missing) or 'single letters'}, so this is no model of proteins.",
            remedy="Fetch the checkpoint again.",
        )
    front = [ids[pieces.front]] if pieces.front in ids else []
    return ByteTable(letters, ids[pieces.unknown], front, [ids[pieces.back]])


def make_tokeniser(family: Family, shape: Shape, folder: Path | None) -> Tokeniser:
    """The tokeniser of a checkpoint's folder, or of an untrained model."""
    match family.tokens:
        case Residues() as residues:
            return residue_table(residues)
        case Pieces() as pieces:
            return piece_table(pieces, untrained_pieces(pieces, shape) if folder is None else _ids_of(folder))
        case Kmers() as kmers:
            return KmerTokeniser(kmers, untrained_kmers(kmers) if folder is None else _ids_of(folder))
        case BytePairs() as names:
            return BpeTokenizer(untrained_bpe_json(), names) if folder is None else read_bpe_tokenizer(folder, names)


def _ids_of(folder: Path) -> Mapping[str, int]:
    vocabulary = read_vocabulary(folder)
    if vocabulary is None:
        raise EnvironmentFault(f"{folder}: no tokenizer.", remedy="Fetch the checkpoint again.")
    return vocabulary.ids


def untrained_pieces(pieces: Pieces, shape: Shape) -> dict[str, int]:
    """Ids of an untrained model: special ones, letters, and in a vocabulary that has room for it the front."""
    names = ["<pad>", pieces.back, pieces.unknown, *(PIECE_MARK + letter for letter in pieces.letters)]
    ids = {name: token for token, name in enumerate(names)}
    return ids | ({pieces.front: pieces.front_id} if 0 < pieces.front_id < shape.vocabulary else {})


def untrained_kmers(kmers: Kmers) -> dict[str, int]:
    """Ids as the published vocab.txt has them."""
    return {name: token for token, name in enumerate(kmers.vocabulary)}
