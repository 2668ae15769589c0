"""Nucleotides to proteins: six frames, and the stretches between their stop codons.

A codon becomes what Biopython makes of it: `X` where several amino acids, or an amino acid and a stop, are possible,
and also where it holds a letter that is no base. Frame +1 begins at the first base, -1 at the last one, of the other
strand. Bases left over at the end of a frame are none of it.
"""

# L = letters of a block

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from Bio.Data import CodonTable
from Bio.Seq import reverse_complement

from hpc_embed.sequences.blocks import Block
from hpc_embed.sequences.kernel import Bytes

Proteins = Literal["six-frames", "longest-orf"]
BASES = "ACGTRYSWKMBDHVN"
"""IUPAC's; a code of four bits each, from 1."""
FRAMES = (1, 2, 3, -1, -2, -3)
GENETIC_CODES = tuple(sorted(CodonTable.ambiguous_generic_by_id))


class Protein(NamedTuple):
    """A stretch of a frame without a stop codon."""

    frame: int
    start: int
    stop: int
    """First and last base on the strand as written, counted from 1."""
    residues: bytes


def name_of_code(genetic_code: int) -> str:
    """NCBI's name of a genetic code."""
    return str(CodonTable.ambiguous_generic_by_id[genetic_code].names[0])


def translated(block: Block, proteins: Proteins, genetic_code: int, min_residues: int) -> Block:
    """The proteins of each record, in its place and with its line: every stretch of so many residues between stops,
    or the longest that begins with methionine. A record without any stays, empty.
    """
    start_of_protein = b"M" if proteins == "longest-orf" else b""
    stretch = re.compile(b"%s[^*]{%d,}" % (start_of_protein, min_residues - len(start_of_protein)))
    forward_L, backward_L = _amino_acids(block.letters, genetic_code)
    ids: list[str] = []
    titles: list[str] = []
    places: list[int] = []
    found: list[bytes] = []
    spans = zip(block.starts_N.tolist(), block.lengths_N.tolist(), strict=True)
    names = zip(block.ids.to_pylist(), block.descriptions.to_pylist(), strict=True)
    for place, ((start, length), (name, description)) in enumerate(zip(spans, names, strict=True)):
        codons = slice(start, start + max(length - 2, 0))
        of_record = _proteins(forward_L[codons], backward_L[codons], stretch)
        if proteins == "longest-orf":
            longest = max(of_record, key=lambda protein: len(protein.residues), default=None)
            of_record = iter([longest] if longest else [])
        rest = description.split(None, 1)[1:]
        before = len(found)
        for protein in of_record:
            ids.append(f"{name}|frame={protein.frame:+d}|{protein.start}..{protein.stop}")
            titles.append(" ".join([ids[-1], *rest]))
            found.append(protein.residues)
        if len(found) == before:
            ids.append(name)
            titles.append(description)
            found.append(b"")
        places += [place] * (len(found) - before)
    return Block(
        descriptions=pa.array(titles, pa.string()),
        ids=pa.array(ids, pa.string()),
        lines_N=block.lines_N[np.array(places, dtype=np.int64)],
        letters=np.frombuffer(bytearray(b"".join(found)), dtype=np.uint8),
        lengths_N=np.array([len(residues) for residues in found], dtype=np.int64),
        num_lines=block.num_lines,
        num_cut=block.num_cut,
        first_cut=block.first_cut,
        fault=block.fault,
    )


def _proteins(forward: Bytes, backward: Bytes, stretch: re.Pattern[bytes]) -> Iterator[Protein]:
    """Frame by frame; `forward` and `backward` have the amino acid of the codon at each base but the last two."""
    for frame in FRAMES:
        skipped, num_bases = abs(frame) - 1, len(forward) + 2
        strand = forward if frame > 0 else backward[::-1]
        for match in stretch.finditer(strand[skipped::3].tobytes()):
            first, last = skipped + 3 * match.start(), skipped + 3 * match.end()
            span = (first + 1, last) if frame > 0 else (num_bases - last + 1, num_bases - first)
            yield Protein(frame, *span, match.group())


def _amino_acids(letters_L: Bytes, genetic_code: int) -> tuple[Bytes, Bytes]:
    """Of the codon that begins at each letter, on this strand and on the other."""
    codes_L = _codes()[letters_L]
    codons_L = codes_L[:-2].astype(np.uint16)
    for more in (codes_L[1:-1], codes_L[2:]):
        codons_L <<= 4
        codons_L |= more
    forward, backward = _tables(genetic_code)
    return forward[codons_L], backward[codons_L]


@cache
def _codes() -> Bytes:
    codes = np.zeros(256, dtype=np.uint8)
    for code, base in enumerate(BASES, 1):
        codes[[ord(base), ord(base.lower())]] = code
    codes[[ord("U"), ord("u")]] = codes[ord("T")]
    return codes


@cache
def _tables(genetic_code: int) -> tuple[Bytes, Bytes]:
    """The amino acid of each codon, and of its reverse complement."""
    table = CodonTable.ambiguous_generic_by_id[genetic_code]
    both = np.full((2, 16, 16, 16), ord("X"), dtype=np.uint8)
    for place in np.ndindex(len(BASES), len(BASES), len(BASES)):
        codon = "".join(BASES[code] for code in place)
        at = tuple(code + 1 for code in place)
        both[0][at], both[1][at] = (ord(_amino_acid(strand, table)) for strand in (codon, reverse_complement(codon)))
    forward, backward = both.reshape(2, -1)
    return forward, backward


def _amino_acid(codon: str, table: CodonTable.CodonTable) -> str:
    try:
        return str(table.forward_table[codon])
    except (KeyError, CodonTable.TranslationError):
        return "*" if codon in table.stop_codons else "X"
