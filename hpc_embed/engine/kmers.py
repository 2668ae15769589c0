"""Words of k bases: from the left, as Nucleotide Transformer reads DNA, or one from each base on, as DNABERT does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from hpc_embed.errors import EnvironmentFault
from hpc_embed.families.family import Kmers, Special

BASES = "ACGT"


class KmerTokeniser:
    """In each run of A, C, G and T as many whole words as there are, then single letters; others stand alone."""

    def __init__(self, kmers: Kmers, ids: Mapping[str, int]) -> None:
        self._k = kmers.k
        words = ["".join(letters) for letters in product(BASES, repeat=kmers.k)]
        missing = [name for name in (kmers.front, kmers.unknown, *BASES, *words) if name not in ids]
        if missing:
            raise EnvironmentFault(f"vocab.txt has no {missing[0]}.", remedy="Fetch the checkpoint again.")
        self._front = ids[kmers.front]
        self._id_of_word = np.array([ids[word] for word in words], dtype=np.uint16)
        self._id_of_letter = np.full(256, ids[kmers.unknown], dtype=np.uint16)
        self._code_of_letter = np.full(256, len(BASES), dtype=np.int64)
        for letter in filter(ids.__contains__, map(chr, range(ord("A"), ord("Z") + 1))):
            self._id_of_letter[ord(letter)] = ids[letter]
        self._code_of_letter[np.frombuffer(BASES.encode(), dtype=np.uint8)] = np.arange(len(BASES))
        self.special = Special(1, 0)
        self.letters_V = np.ones(max(ids.values()) + 1, dtype=np.uint8)
        self.letters_V[self._id_of_word] = kmers.k
        self.letters_V[self._front] = 0

    def __call__(self, sequences: Sequence[bytes]) -> list[NDArray[np.uint16]]:
        """Front and words of each sequence."""
        return [self._tokens(np.frombuffer(sequence, dtype=np.uint8)) for sequence in sequences]

    def _tokens(self, letters_N: NDArray[np.uint8]) -> NDArray[np.uint16]:
        codes_N = self._code_of_letter[letters_N]
        starts_word_N, is_inside_N = self._words(codes_N == len(BASES))
        tokens_N = self._id_of_letter[letters_N]
        heads_W = np.flatnonzero(starts_word_N)
        codes_WK = codes_N[heads_W[:, None] + np.arange(self._k)]
        tokens_N[heads_W] = self._id_of_word[codes_WK @ len(BASES) ** np.arange(self._k - 1, -1, -1)]
        return np.concatenate(([self._front], tokens_N[~is_inside_N])).astype(np.uint16)

    def _words(self, is_other_N: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which letters begin a word, and which lie inside one."""
        places_N = np.arange(len(is_other_N))
        before_N = np.maximum.accumulate(np.where(is_other_N, places_N, -1))  # the last other letter so far
        after_N = np.minimum.accumulate(np.where(is_other_N, places_N, len(places_N))[::-1])[::-1]
        place_in_run_N, length_N = places_N - before_N - 1, after_N - before_N - 1
        is_in_word_N = ~is_other_N & (place_in_run_N < length_N // self._k * self._k)
        is_first_N = place_in_run_N % self._k == 0
        return is_in_word_N & is_first_N, is_in_word_N & ~is_first_N


class OverlappingWords:
    """The word of k bases from each base on; one with another letter in it is unknown, and so is a shorter sequence."""

    def __init__(self, ids: Mapping[str, int], k: int, unknown: int, front: list[int], back: list[int]) -> None:
        words = ["".join(letters) for letters in product(BASES, repeat=k)]
        self._k, self._unknown = k, unknown
        self._id_of_word = np.array([*(ids.get(word, unknown) for word in words), unknown], dtype=np.int64)
        self._code_of_letter = np.full(256, len(words), dtype=np.int64)
        self._code_of_letter[np.frombuffer(BASES.encode(), dtype=np.uint8)] = np.arange(len(BASES))
        self._front, self._back = (np.array(tokens, dtype=np.int64) for tokens in (front, back))

    def __call__(self, sequences: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """Front, words and back of each sequence."""
        return [np.concatenate([self._front, self._tokens(sequence), self._back]) for sequence in sequences]

    def _tokens(self, sequence: bytes) -> NDArray[np.int64]:
        if len(sequence) < self._k:
            return np.array([self._unknown])
        codes_N = self._code_of_letter[np.frombuffer(sequence, dtype=np.uint8)]
        codes_NK = np.lib.stride_tricks.sliding_window_view(codes_N, self._k)
        words_N = codes_NK @ len(BASES) ** np.arange(self._k - 1, -1, -1)
        tokens_N: NDArray[np.int64] = self._id_of_word[np.minimum(words_N, len(self._id_of_word) - 1)]
        return tokens_N
