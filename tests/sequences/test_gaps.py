"""Alignments: known, and read without their gaps."""

from __future__ import annotations

from pathlib import Path

import pytest
from Bio import AlignIO

from hpc_embed.sequences.blocks import Block, parse_block
from hpc_embed.sequences.gaps import is_alignment, without_gaps


def block_of(content: bytes) -> Block:
    return parse_block(bytearray(content), is_first=True)


@pytest.mark.parametrize(
    ("content", "is_one"),
    [
        (b">a\nM-KV\n>b\nMLKV\n", True),
        (b">a\nM.KV\n>b\nML\nKV\n", True),
        (b">a\nMLKV\n>b\nMLKV\n", False),
        (b">a\nM-KV\n>b\nMLK\n", False),
        (b">a\nM-KV\n", False),
        (b">a\n>b\n", False),
        (b"", False),
    ],
)
def test_an_alignment_is_several_records_of_one_length_with_gaps(content: bytes, is_one: bool) -> None:
    assert is_alignment(block_of(content), is_cut=False) == is_one


def test_of_a_head_the_last_record_does_not_count() -> None:
    assert is_alignment(block_of(b">a\nM-KV\n>b\nMLKV\n>c\nM"), is_cut=True)
    assert not is_alignment(block_of(b">a\nM-KV\n>b\nMLKV\n>c\nM"), is_cut=False)


def test_without_gaps_records_are_those_of_biopythons_alignment_ungapped(tmp_path: Path) -> None:
    content = b">a\n-MK.V\n>b\n-----\n>c\nMLKVV\n>d\nML--\n-\n"
    (tmp_path / "x.fa").write_bytes(content)
    rows = AlignIO.read(tmp_path / "x.fa", "fasta")
    block = without_gaps(block_of(content))
    expected = [str(row.seq).replace("-", "").replace(".", "") for row in rows]
    assert block.letters.tobytes().decode() == "".join(expected)
    assert block.lengths_N.tolist() == list(map(len, expected))
    assert block.ids.to_pylist() == [row.id for row in rows]
