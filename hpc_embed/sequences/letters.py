"""The residue policy: which letters a model is given, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from hpc_embed.model import Kind

CasePolicy = Literal["upper", "keep"]

STOP = b"*"
NUCLEOTIDE_LETTERS = b"ACGTUN"
MIN_LETTERS_TO_JUDGE = 100
"""A few residues of either kind can be spelt with the letters of the other."""
NUCLEOTIDE_SHARE = 0.9
"""At or above this share of ACGTUN a whole file is nucleotides. Proteins have about 0.3 to 0.4."""
PROTEIN_SHARE = 0.7
"""Below this share of ACGTUN a whole file is proteins; IUPAC ambiguity codes never get it that low."""


class Residues(NamedTuple):
    """A sequence as the model will see it."""

    sequence: bytes
    num_unknown: int
    """Letters that the model does not know; they stand in the sequence as they were."""
    first_unknown: str
    """The first of them, empty for none."""


class ResiduePolicy:
    """Upper case unless kept, no trailing stop in a protein, U as T for DNA, unknown letters counted.

    `known_letters` are the letters that the model tells apart; see docs/input.md for the rules.
    """

    def __init__(self, kind: Kind, known_letters: str, case: CasePolicy) -> None:
        self._drop_stop = kind == "protein"
        self._upper = case == "upper"
        self._known = known_letters.encode("ascii")
        self.reads_u_as_t = kind == "dna" and "T" in known_letters and "U" not in known_letters
        """RNA for a model that knows DNA alone."""

    @property
    def mapping(self) -> bytes:
        """What each of the 256 bytes becomes."""
        letters = bytes(range(256)).upper() if self._upper else bytes(range(256))
        return letters.replace(b"U", b"T") if self.reads_u_as_t else letters

    @property
    def is_unknown(self) -> bytes:
        """1 for each byte that the model does not know, after mapping."""
        return bytes(byte not in self._known for byte in range(256))

    @property
    def stop(self) -> int:
        """The letter that is dropped at the end of a record, 0 for none."""
        return STOP[0] if self._drop_stop else 0

    def apply(self, sequence: bytes) -> Residues:
        """The residues of one record."""
        sequence = sequence.translate(self.mapping)
        if self._drop_stop:
            sequence = sequence.rstrip(STOP)
        unknown = sequence.translate(None, self._known)
        return Residues(sequence, len(unknown), chr(unknown[0]) if unknown else "")


def judge_kind(letter_counts: Mapping[int, int]) -> Kind | None:
    """Protein or DNA, judged from the letters of a whole file; None where there are too few to tell."""
    counts: dict[int, int] = {}
    for letter, count in letter_counts.items():
        upper = ord(chr(letter).upper())
        counts[upper] = counts.get(upper, 0) + count
    total = sum(count for letter, count in counts.items() if chr(letter).isalpha())
    if total < MIN_LETTERS_TO_JUDGE:
        return None
    share = sum(counts.get(letter, 0) for letter in NUCLEOTIDE_LETTERS) / total
    if share >= NUCLEOTIDE_SHARE:
        return "dna"
    return "protein" if share < PROTEIN_SHARE else None
