"""Translation against Biopython's own: every codon of every table, frames, stretches, places."""

from __future__ import annotations

import random
import re
import warnings

import pytest
from Bio import BiopythonWarning
from Bio.Seq import Seq, reverse_complement

from hpc_embed.sequences.blocks import Block, parse_block
from hpc_embed.sequences.translation import BASES, FRAMES, GENETIC_CODES, translated

FRAME = re.compile(r"(.*)\|frame=([+-][123])\|(\d+)\.\.(\d+)")


def by_biopython(bases: str, genetic_code: int) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BiopythonWarning)  # codons that are both, and bases left over
        return str(Seq(bases).translate(table=genetic_code))


def frames_by_biopython(bases: str, genetic_code: int) -> dict[int, str]:
    strands = {1: bases, -1: reverse_complement(bases)}
    return {frame: by_biopython(strands[1 if frame > 0 else -1][abs(frame) - 1 :], genetic_code) for frame in FRAMES}


def block_of(*sequences: str) -> Block:
    content = "".join(f">r{number} a note\n{bases}\n" for number, bases in enumerate(sequences))
    return parse_block(bytearray(content.encode()), is_first=True)


def proteins(block: Block) -> list[tuple[str, str]]:
    letters, stop, found = block.letters.tobytes().decode(), 0, []
    for name, length in zip(block.ids.to_pylist(), block.lengths_N.tolist(), strict=True):
        found.append((name, letters[stop : stop + length]))
        stop += length
    return found


def some_dna(seed: int, letters: str = "ACGT") -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(letters, k=length)) for length in (0, 1, 2, 3, 4, 5, 6, 7, 90, 91, 92, 500, 2000)]


@pytest.mark.parametrize("genetic_code", GENETIC_CODES)
def test_every_codon_of_every_table_is_biopythons(genetic_code: int) -> None:
    letters = BASES + "U"
    codons = "".join(a + b + c for a in letters for b in letters for c in letters)
    whole = "".join("*" if name is None else name for name in split_frame(codons, genetic_code))
    assert whole == by_biopython(codons, genetic_code)


def split_frame(bases: str, genetic_code: int) -> list[str | None]:
    """Frame +1 put together again from its stretches."""
    residues: list[str | None] = [None] * (len(bases) // 3)
    for name, protein in proteins(translated(block_of(bases), "six-frames", genetic_code, 1)):
        match = FRAME.fullmatch(name)
        assert match is not None
        if match[2] == "+1":
            start = (int(match[3]) - 1) // 3
            residues[start : start + len(protein)] = protein
    return residues


@pytest.mark.parametrize("genetic_code", [1, 2, 4, 11, 27])
@pytest.mark.parametrize("letters", ["ACGT", "acgtACGU", "ACGTN", "ACGTRYSWKMBDHVN"])
def test_six_frames_are_the_stretches_between_the_stops_of_biopythons_frames(letters: str, genetic_code: int) -> None:
    for min_residues in (1, 30):
        for bases in some_dna(genetic_code, letters):
            expected = [
                (frame, stretch)
                for frame, residues in frames_by_biopython(bases, genetic_code).items()
                for stretch in residues.split("*")
                if len(stretch) >= min_residues
            ]
            made = proteins(translated(block_of(bases), "six-frames", genetic_code, min_residues))
            if not expected:
                assert made == [("r0", "")]
                continue
            assert [(frame_of(name), protein) for name, protein in made] == expected


def frame_of(name: str) -> int:
    match = FRAME.fullmatch(name)
    assert match is not None, name
    return int(match[2])


@pytest.mark.parametrize("genetic_code", [1, 2, 11])
def test_the_longest_orf_is_the_longest_from_a_methionine_to_a_stop_in_any_frame(genetic_code: int) -> None:
    for bases in some_dna(7):
        frames = frames_by_biopython(bases, genetic_code).values()
        orfs = [stretch[stretch.index("M") :] for frame in frames for stretch in frame.split("*") if "M" in stretch]
        ((_, protein),) = proteins(translated(block_of(bases), "longest-orf", genetic_code, 1))
        assert protein == max(orfs, key=len, default="")


@pytest.mark.parametrize("mode", ["six-frames", "longest-orf"])
def test_start_and_stop_in_the_id_are_the_bases_that_a_protein_comes_from(mode: str) -> None:
    for bases in some_dna(3):
        for name, protein in proteins(translated(block_of(bases), mode, 11, 10)):  # type: ignore[arg-type]
            match = FRAME.fullmatch(name)
            if match is None:
                assert (name, protein) == ("r0", "")
                continue
            source = bases[int(match[3]) - 1 : int(match[4])]
            strand = source if int(match[2]) > 0 else reverse_complement(source)
            assert by_biopython(strand, 11) == protein
            assert len(source) == 3 * len(protein)


def test_records_keep_their_order_lines_and_headers_and_none_is_lost() -> None:
    block = block_of("ATGAAATAA", "AC", "ATGGCTGCT" + "TAA" * 30)
    made = translated(block, "longest-orf", 1, 2)
    assert proteins(made) == [("r0|frame=+1|1..6", "MK"), ("r1", ""), ("r2|frame=+1|1..9", "MAA")]
    assert made.descriptions.to_pylist() == ["r0|frame=+1|1..6 a note", "r1 a note", "r2|frame=+1|1..9 a note"]
    assert made.lines_N.tolist() == block.lines_N.tolist()
    assert made.num_lines == block.num_lines


def test_letters_that_are_no_bases_make_x_and_no_codon_crosses_from_record_to_record() -> None:
    made = translated(block_of("ATG-AA*GGA1", "GG"), "six-frames", 1, 3)
    assert proteins(made)[0] == ("r0|frame=+1|1..9", "MXX")
    assert proteins(made)[-1] == ("r1", "")


def longest(bases: str) -> list[tuple[str, str]]:
    return proteins(translated(block_of(bases), "longest-orf", 1, 2))


def test_rna_in_lower_case_is_translated_as_the_dna_is() -> None:
    dna = "ATGGCTTGTTATTAA"
    for written in (dna, dna.lower(), dna.replace("T", "U"), dna.replace("T", "U").lower(), "auggctTGUuattaa"):
        assert longest(written) == [("r0|frame=+1|1..12", "MACY")]
    assert longest("uuaauaacaagccau") == [("r0|frame=-1|4..15", "MACY")]


def test_of_equally_long_proteins_the_first_of_the_first_frame_is_taken() -> None:
    assert longest("ATGGCTTGTTAA" + "ATGTGTGCTTAA") == [("r0|frame=+1|1..9", "MAC")]
    assert longest("CATGGCTTGTTAA" + "TT" + "ATGTGTGCTTAA") == [("r0|frame=+1|16..24", "MCA")]
    backwards = reverse_complement("ATGTGTGCTTAA")
    assert longest(backwards + "TTAGTTAACTAA" + "ATGGCTTGTTAA") == [("r0|frame=+1|25..33", "MAC")]
