"""The residue policy, and telling proteins from DNA."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hpc_embed.model import DNA_LETTERS, ESM2_LETTERS, Kind
from hpc_embed.sequences.letters import ResiduePolicy, judge_kind
from hpc_embed.sequences.windows import num_windows, split_windows


@pytest.mark.parametrize(
    ("kind", "letters", "written", "residues", "num_unknown", "first"),
    [
        ("protein", ESM2_LETTERS, b"mkVL", b"MKVL", 0, ""),
        ("protein", ESM2_LETTERS, b"MKVL*", b"MKVL", 0, ""),
        ("protein", ESM2_LETTERS, b"MK*VL**", b"MK*VL", 1, "*"),
        ("protein", ESM2_LETTERS, b"MJJK1", b"MJJK1", 3, "J"),
        ("protein", ESM2_LETTERS, b"XBUZO.-", b"XBUZO.-", 0, ""),
        ("protein", ESM2_LETTERS, b"*", b"", 0, ""),
        ("dna", DNA_LETTERS, b"acgtNR", b"ACGTNR", 2, "N"),
        ("dna", DNA_LETTERS, b"ACGT*", b"ACGT*", 1, "*"),
    ],
)
def test_policy(kind: Kind, letters: str, written: bytes, residues: bytes, num_unknown: int, first: str) -> None:
    assert ResiduePolicy(kind, letters, "upper").apply(written) == (residues, num_unknown, first)


def test_kept_lower_case_counts_as_unknown() -> None:
    assert ResiduePolicy("dna", DNA_LETTERS, "keep").apply(b"acGT") == (b"acGT", 2, "a")


@pytest.mark.parametrize(
    ("letters", "kind"),
    [
        (b"MKTAYIAKQRQISFVKSHFSRQ" * 10, "protein"),
        (b"ACGTTGCA" * 20, "dna"),
        (b"acgtnnnn" * 20, "dna"),
        (b"ACGU" * 40, "dna"),
        (b"ACGT", None),
        (b"AAT" * 20, None),
        (b"1234" * 200, None),
    ],
)
def test_kind_is_judged_from_enough_letters_only(letters: bytes, kind: str | None) -> None:
    assert judge_kind(Counter(letters)) == kind


@pytest.mark.parametrize(
    ("length", "limit", "lengths"),
    [
        (10, 10, [10]),
        (11, 10, [5, 6]),
        (1030, 1022, [515, 515]),
        (25, 10, [8, 8, 9]),
        (1, 1, [1]),
    ],
)
def test_overlong_records_are_cut_evenly_and_completely(length: int, limit: int, lengths: list[int]) -> None:
    records = np.array([3, length])
    windows = split_windows(records, num_windows(records, limit))
    assert windows.record_W.tolist() == [0] * (windows.record_W == 0).sum() + [1] * len(lengths)
    starts, found = windows.starts_W[windows.record_W == 1], windows.lengths_W[windows.record_W == 1]
    assert found.tolist() == lengths
    assert starts.tolist() == (np.cumsum(lengths) - lengths).tolist()


@pytest.mark.parametrize(
    ("kind", "known", "reads"),
    [("dna", "ACGTN", True), ("dna", "ACGUN", False), ("dna", "ACGTU", False), ("protein", "ACGT", False)],
)
def test_u_is_read_as_t_where_dna_is_known_by_t_alone(kind: Kind, known: str, reads: bool) -> None:
    assert ResiduePolicy(kind, known, "upper").reads_u_as_t == reads
    assert ResiduePolicy(kind, known, "upper").apply(b"uU").sequence == (b"TT" if reads else b"UU")
