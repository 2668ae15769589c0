"""Letters to tokens for any encoder: how letters are given to a checkpoint's own tokenizer is found by trying it.

The way that leaves the fewest letters of the model's alphabet unknown is taken; a tie goes to the plainest. Where
tokens are letters or words of k letters, a table does the same many times as fast; it is taken where it was compared
with the tokenizer.
"""

# N = tokens of one sequence

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_embed.engine.kmers import BASES, KmerTokeniser, OverlappingWords
from hpc_embed.engine.own_tokenizer import OwnTokenizer, Row, read_json
from hpc_embed.engine.tokens import ByteTable
from hpc_embed.engine.ways import ALPHABETS, PLAIN, PROBES, WORD_LENGTHS, WORDS, Way, has_all_words, ways_for
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families.family import LARGEST_DIMENSION, Kmers
from hpc_embed.model import Kind

NUM_PROOF_LETTERS = 2000
PRINTABLE = "".join(map(chr, range(33, 127)))
UPPER = "".join(map(chr, range(ord("A"), ord("Z") + 1)))
Fast = Callable[[Sequence[bytes]], list[NDArray[Any]]]


class NativeTokeniser:
    """A checkpoint's own tokens of sequences, special ones marked."""

    def __init__(self, folder: Path, kind: Kind | None = None) -> None:
        """EnvironmentFault for a tokenizer that does not know its model's letters, or gives ids without a vector."""
        self._own = OwnTokenizer(folder)
        rows = read_json(folder / "config.json").get("vocab_size")
        self._num_rows = rows if isinstance(rows, int) and not isinstance(rows, bool) else LARGEST_DIMENSION
        self._lengths_V = self._own.lengths_V()
        self.unknown_id = self._own.unknown_id
        """None for a tokenizer that leaves out what it does not know."""
        self.way, self._kind = self._choose(kind)
        self._refuse_rows_beyond(self._given([PROBES[self._kind]]))
        self._known = self._find_known()
        self._refuse_unknown_alphabet()
        self.known_letters = "".join(letter for letter in UPPER if letter in self._known)
        """Capitals that have a token of their own, or a part in one."""
        self._front, self._back = self._find_around()
        self.is_letter_a_token = False
        """Every letter is one token, and every token but the special ones one letter."""
        self._fast = self._find_fast()
        self.knows_lengths = self._adds_up()
        """`letters_of` tells the truth."""
        self.notes: tuple[str, ...] = tuple(f"tokens: {note}." for note in self._find_notes())

    def __call__(self, sequences: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """Marked tokens of each sequence, as the checkpoint's own post-processor surrounds them.

        EnvironmentFault where letters that the tokenizer knows by themselves become unknown ones.
        """
        if self.unknown_id is None:
            self._refuse_letters_without_token(sequences)
        return self.by_itself(sequences) if self._fast is None else self._fast(sequences)

    def by_itself(self, sequences: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """What the tokenizer makes without a table of ours: slow."""
        texts = [sequence.decode("ascii", errors="replace") for sequence in sequences]
        rows = self._given(texts)
        self._refuse_rows_beyond(rows)
        return [marked(*self._with_each_unknown(text, row)) for text, row in zip(texts, rows, strict=True)]

    def letters_of(self, tokens_N: NDArray[np.integer]) -> NDArray[np.int64]:
        """Letters that each token stands for, none for a special one; the last of overlapping words ends them all."""
        is_special_N = tokens_N < 0
        ids_N = np.where(is_special_N, 0, tokens_N)
        letters_N = np.where(is_special_N, 0, 1 if self.way.has_units else self._lengths_V[ids_N])
        if self.way.k > 1 and not is_special_N.all():
            letters_N[np.flatnonzero(~is_special_N)[-1]] = self.way.k
        return letters_N

    def _given(self, sequences: Sequence[str], *, way: Way | None = None, with_special: bool = True) -> list[Row]:
        """The tokenizer's rows of sequences, written down in a way; what the way puts in front is special too."""
        way = way or self.way
        rows = self._own([way(sequence) for sequence in sequences], with_special=with_special)
        if not way.prefix:
            return rows
        prefix = self._own.ids[way.prefix]
        return [Row(row.ids_N, row.is_special_N | (row.ids_N == prefix)) for row in rows]

    def _choose(self, kind: Kind | None) -> tuple[Way, Kind]:
        kinds: list[Kind] = ["protein", "dna"] if kind is None else [kind]
        tried = [
            (self._share_unknown(way, PROBES[kind]), way, kind)
            for kind in kinds
            for way in ways_for(self._own.ids, kind)
        ]
        _, way, found = min(tried, key=lambda one: min(one[0], 1.0))  # of equals the first
        return way, found

    def _share_unknown(self, way: Way, probe: str) -> float:
        """Of a probe's letters, or of the words that are written of them."""
        (row,) = self._given([probe], way=way)
        known_N = row.ids_N[~row.is_special_N & (row.ids_N != self.unknown_id)]
        num_known = len(known_N) if way.has_units else int(self._lengths_V[known_N].sum())
        num_written, num_unknown = len(probe) - way.k + 1, int((row.ids_N == self.unknown_id).sum())
        return (abs(num_written - num_known) + num_unknown) / num_written  # spaces may be tokens too

    def _find_known(self) -> set[str]:
        """Each letter between known ones: those that leave nothing unknown, and nothing out."""
        around = ALPHABETS[self._kind][0] * self.way.k
        rows = self._given([around + letter + around for letter in PRINTABLE])
        (without,) = self._given([around + around])

        def is_known(row: Row) -> bool:
            is_unknown = self.unknown_id in row.ids_N or row.ids_N.max() >= self._num_rows
            return not is_unknown and self._num_letters(row) > self._num_letters(without)

        return {letter for letter, row in zip(PRINTABLE, rows, strict=True) if is_known(row)}

    def _num_letters(self, row: Row) -> int:
        return int(self._lengths_V[row.ids_N[~row.is_special_N]].sum())

    def _find_around(self) -> tuple[list[int], list[int]]:
        """Special tokens in front of every sequence, and behind."""
        (row,) = self._given([PROBES[self._kind]])
        places = np.flatnonzero(~row.is_special_N)
        return row.ids_N[: places[0]].tolist(), row.ids_N[places[-1] + 1 :].tolist()

    def _find_fast(self) -> Fast | None:
        """The first table that gives what the tokenizer gives, entry by entry and on sequences of known letters."""
        forms = (self._table(), self._words(), self._overlapping_words())
        found = next((place for place, fast in enumerate(forms) if fast is not None and self._is_proven(fast)), None)
        self.is_letter_a_token = found == 0
        return None if found is None else forms[found]

    def _proof(self) -> list[bytes]:
        return [sequence for sequence in proof(self.known_letters) if len(sequence) >= self.way.k]

    def _is_proven(self, fast: Fast) -> bool:
        sequences = self._proof()
        pairs = zip(fast(sequences), self.by_itself(sequences), strict=True)
        return all(np.array_equal(ours_N, its_N) for ours_N, its_N in pairs)

    def _table(self) -> Fast | None:
        """A token a letter."""
        num_front, first = len(self._front), self.known_letters[0]
        letters = sorted(self._known)
        rows = self._given([first + letter + first for letter in letters])
        if any(len(row.ids_N) != num_front + 3 + len(self._back) for row in rows):
            return None
        ids = {letter: int(row.ids_N[num_front + 1]) for letter, row in zip(letters, rows, strict=True)}
        unknown = max(ids.values()) if self.unknown_id is None else self.unknown_id
        return self._marking(ByteTable(ids, unknown, self._front, self._back))

    def _words(self) -> Fast | None:
        """Words of k letters from the left."""
        k = next((k for k in reversed(WORD_LENGTHS) if has_all_words(self._own.ids, k)), 0)
        has_letters = self._own.ids.keys() >= set(BASES)
        if self.way != PLAIN or not k or not has_letters or len(self._front) != 1 or self._back:
            return None
        names = Kmers(k=k, special=(), front=self._own.name_of(self._front[0]), unknown=self._own.unknown)
        return None if self.unknown_id is None else self._marking(KmerTokeniser(names, self._own.ids))

    def _overlapping_words(self) -> Fast | None:
        if self.way.k == 1 or self.way.is_rna or self.unknown_id is None:
            return None
        return self._marking(OverlappingWords(self._own.ids, self.way.k, self.unknown_id, self._front, self._back))

    def _marking(self, fast: Fast) -> Fast:
        """The same tokens, the special ones around them marked."""
        front, back = ([-1 - token for token in tokens] for tokens in (self._front, self._back))

        def run(sequences: Sequence[bytes]) -> list[NDArray[np.int64]]:
            rows = [row.astype(np.int64) for row in fast(sequences)]
            for row in rows:
                row[: len(front)] = front
                row[len(row) - len(back) :] = back
            return rows

        return run

    def _adds_up(self) -> bool:
        sequences = self._proof()
        pairs = zip(sequences, self(sequences), strict=True)
        return all(self.letters_of(tokens_N).sum() == len(sequence) for sequence, tokens_N in pairs)

    def _with_each_unknown(self, sequence: str, row: Row) -> Row:
        """One unknown token a letter, where the tokenizer folds a run of them into one."""
        num_unknown = int((row.ids_N == self.unknown_id).sum())
        num_others = sum(letter not in self._known for letter in sequence)
        if num_unknown and not num_others and len(sequence) >= self.way.k:
            raise EnvironmentFault(
                f"{self._own.folder}: its tokenizer makes {num_unknown} {self._own.unknown} of {sequence[:20]}…, of "
                "which it knows each letter.",
                remedy="Plan with a smaller --max-residues; if that is no help, fetch its tokenizer files again.",
            )
        if num_unknown == num_others or self.way.k > 1 or self.unknown_id is None:
            return row
        return self._pieced(sequence, self.unknown_id)

    def _pieced(self, sequence: str, unknown: int) -> Row:
        known = "".join(map(re.escape, sorted(self._known)))
        pieces = re.findall(f"[{known}]+|[^{known}]", sequence)
        bare = self.way._replace(prefix="")
        made = self._given([piece for piece in pieces if piece[0] in self._known], way=bare, with_special=False)
        rows = iter(made)
        ids = [next(rows).ids_N if piece[0] in self._known else [unknown] for piece in pieces]
        ids_N = np.concatenate([self._front, *ids, self._back]).astype(np.int64)
        is_special_N = np.ones(len(ids_N), dtype=bool)
        is_special_N[len(self._front) : len(ids_N) - len(self._back)] = False
        return Row(ids_N, is_special_N)

    def _refuse_unknown_alphabet(self) -> None:
        letters = ALPHABETS[self._kind]
        num_unknown = sum(letter not in self._known for letter in letters)
        if 2 * num_unknown > len(letters):
            raise EnvironmentFault(
                f"{self._own.folder}: its tokenizer makes {self._own.unknown} of {num_unknown} of {len(letters)} "
                f"{WORDS[self._kind]}.",
                remedy=self._own.what_it_lacks(),
            )

    def _refuse_letters_without_token(self, sequences: Sequence[bytes]) -> None:
        known = "".join(self._known).encode("ascii")
        for sequence in sequences:
            if others := sequence.translate(None, known):
                raise EnvironmentFault(
                    f"{self._own.folder}: its tokenizer has no token for {chr(others[0])!r}, and none for unknown "
                    "letters: it leaves them out.",
                    remedy="Plan with --on-invalid skip, or mend the input.",
                )

    def _refuse_rows_beyond(self, rows: Sequence[Row]) -> None:
        largest = max((int(row.ids_N.max()) for row in rows if len(row.ids_N)), default=0)
        if largest >= self._num_rows:
            raise EnvironmentFault(
                f"{self._own.folder}: its tokenizer gives {self._own.name_of(largest)} the id {largest}, and the "
                f"embedding has {self._num_rows} rows.",
                remedy="Restore the published tokenizer_config.json, where a token without a row is null.",
            )

    def _find_notes(self) -> Iterator[str]:
        yield from self._own.notes
        if self.way.note:
            yield self.way.note
        if self._kind == "dna" and self.is_letter_a_token and self._known >= set(ALPHABETS["protein"]):
            yield "its vocabulary has all 20 residues, so bases are read as residues if this is a model of proteins"
        if self.is_letter_a_token and self._known & set(UPPER.lower()):
            yield "lower-case letters have tokens of their own, which stand for something else than residues"
        if self.way.k > 1:
            yield f"a sequence of fewer than {self.way.k} letters is one {self._own.unknown}"
        elif not self.is_letter_a_token:
            yield "of several letters" if self.knows_lengths else "of letters that cannot be counted"


def proof(letters: str) -> list[bytes]:
    """Sequences that a table must agree on: each letter alone and many times, each pair, and 2,000 drawn ones."""
    drawn = random.Random(0)
    pairs = "".join(map("".join, product(letters, repeat=2)))
    chance = "".join(drawn.choices(letters, k=NUM_PROOF_LETTERS))
    texts = [*letters, *(letter * 30 for letter in letters), pairs, chance]
    return [text.encode() for text in texts]


def marked(tokens_N: NDArray[np.int64], is_special_N: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Token ids, those of special tokens as -1 - id."""
    return np.where(is_special_N, -1 - tokens_N, tokens_N)


def unmarked(window_N: NDArray[np.integer]) -> NDArray[np.integer]:
    """The ids alone."""
    signed_N = window_N.astype(np.int64)
    return np.where(signed_N < 0, -1 - signed_N, signed_N)
