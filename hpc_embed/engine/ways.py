"""The ways in which letters are written down for a checkpoint's own tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import product
from typing import NamedTuple

from hpc_embed.engine.kmers import BASES
from hpc_embed.model import AMINO_ACIDS, DNA_LETTERS, Kind

ALPHABETS: dict[Kind, str] = {"protein": AMINO_ACIDS, "dna": DNA_LETTERS}
WORDS: dict[Kind, str] = {"protein": "residues", "dna": "bases"}
PROBES: dict[Kind, str] = {
    "protein": "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKCDWPH",
    "dna": "ACGTTGCAACGTACGTTAGCCAGGATCTTCCAATCGGCTAGAACTGATCATTTGCGCCCGTGAA",
}
"""Every letter of an alphabet, in fewer than the 100 letters that make WordPiece's longest word."""
NO_STRUCTURE = "#"
"""SaProt's structure letter where the structure is not known."""
PREFIXES: dict[str, Kind] = {"<AA2fold>": "protein"}
"""Tokens in front of every sequence, by the cards of the models that have them in their vocabulary."""
WORD_LENGTHS = range(3, 9)
RNA = str.maketrans("T", "U")


class Way(NamedTuple):
    """How a sequence is written down."""

    name: str
    write: Callable[[str], str]
    k: int = 1
    """Letters of a word, where words overlap."""
    has_units: bool = False
    """A token stands for a word or pair that was written, whatever its length."""
    is_rna: bool = False
    """U is written for T."""
    prefix: str = ""

    def __call__(self, sequence: str) -> str:
        text = self.write(sequence.translate(RNA) if self.is_rna else sequence)
        return f"{self.prefix} {text}" if self.prefix else text

    @property
    def note(self) -> str:
        """For people: all but the plainest."""
        if self == PLAIN:
            return ""
        return self.name + (", U for T" if self.is_rna else "") + (f", behind {self.prefix}" if self.prefix else "")


def _plain(sequence: str) -> str:
    return sequence


def _pairs(sequence: str) -> str:
    return "".join(letter + NO_STRUCTURE for letter in sequence)


def _overlapping(k: int) -> Callable[[str], str]:
    """Words of k letters, one from each letter on, put apart by spaces; of a shorter sequence itself."""
    return lambda sequence: " ".join(sequence[at : at + k] for at in range(max(len(sequence) - k + 1, 1)))


PLAIN, SPACED = Way("letters as they are", _plain), Way("letters put apart by spaces", " ".join)
PAIRED = Way(f"pairs of a residue and {NO_STRUCTURE!r} for a structure that is not known", _pairs, has_units=True)


def ways_for(vocabulary: Collection[str], kind: Kind) -> Iterator[Way]:
    """Those that a vocabulary gives reason to try, the plainest first."""
    ways = [PLAIN, SPACED]
    if kind == "dna":
        ways += [
            Way(f"overlapping words of {k} letters", _overlapping(k), k=k, has_units=True)
            for k in WORD_LENGTHS
            if has_all_words(vocabulary, k)
        ]
    elif all(letter + NO_STRUCTURE in vocabulary for letter in AMINO_ACIDS):
        ways.append(PAIRED)
    prefix = next((name for name, of_kind in PREFIXES.items() if name in vocabulary and kind == of_kind), "")
    yield from (way._replace(prefix=prefix) for way in ways)
    if kind == "dna" and "U" in vocabulary and "T" not in vocabulary:
        yield from (way._replace(is_rna=True) for way in ways)


def has_all_words(vocabulary: Collection[str], k: int) -> bool:
    """Every word of k bases."""
    return all("".join(letters) in vocabulary for letters in product(BASES, repeat=k))
