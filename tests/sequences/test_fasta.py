"""FASTA in the wild."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest

from hpc_embed.errors import BadInput, UsageError
from hpc_embed.sequences.fasta import FastaRecord, read_fasta
from hpc_embed.sequences.sources import expand_inputs


def read(path: Path, content: bytes) -> list[FastaRecord]:
    path.write_bytes(content)
    return list(read_fasta(str(path)))


@pytest.mark.parametrize(
    ("content", "sequences"),
    [
        (b">a\nMK\n>b\nV\n", [b"MK", b"V"]),
        (b">a\r\nMK\r\nVL\r\n", [b"MKVL"]),
        (b">a\rMK\rVL\r", [b"MKVL"]),
        (b">a\nM K\t V\x0bL\n", [b"MKVL"]),
        (b"\n\n>a\n\nMK\n\nVL", [b"MKVL"]),
        (b">a\n>b\nM\n>c\n", [b"", b"M", b""]),
        (b"\xef\xbb\xbf>a\nM\n", [b"M"]),
        (b">a\nM\xffK\n", [b"M?K"]),
        (b">a\nM\xc3\xa9K\n", [b"M?K"]),
        (b"", []),
    ],
)
def test_sequences_are_read_whatever_the_line_ends_and_white_space(
    tmp_path: Path, content: bytes, sequences: list[bytes]
) -> None:
    assert [record.sequence for record in read(tmp_path / "x.fa", content)] == sequences


@pytest.mark.parametrize(
    ("header", "name", "description"),
    [
        (b"sp|P1/2|X desc", "sp|P1/2|X", "sp|P1/2|X desc"),
        (b"a\tb", "a", "a\tb"),
        (b"", "", ""),
        (b" a", "a", " a"),
        ("naïve à".encode(), "naïve", "naïve à"),
        (b"a\xff\xfe b", "a\\xff\\xfe", "a\\xff\\xfe b"),
        (b"../../etc/passwd <script>", "../../etc/passwd", "../../etc/passwd <script>"),
    ],
)
def test_headers_with_any_bytes_are_kept_and_told_apart(
    tmp_path: Path, header: bytes, name: str, description: str
) -> None:
    (record,) = read(tmp_path / "x.fa", b">" + header + b"\nM\n")
    assert (record.id, record.description) == (name, description)


def test_line_numbers_are_those_of_the_headers(tmp_path: Path) -> None:
    records = read(tmp_path / "x.fa", b"\n>a\nM\nK\n>b\n\n>c\nV\n")
    assert [record.line for record in records] == [2, 5, 7]


def test_gzip_is_known_by_its_bytes_and_not_by_its_name(tmp_path: Path) -> None:
    assert read(tmp_path / "x.fa", gzip.compress(b">a\nMK\n"))[0].sequence == b"MK"


def test_gzip_in_several_members_is_read_to_the_end(tmp_path: Path) -> None:
    records = read(tmp_path / "x.gz", gzip.compress(b">a\nM\n") + gzip.compress(b">b\nK\n"))
    assert [record.id for record in records] == ["a", "b"]


def test_a_truncated_gzip_is_refused_and_not_read_in_part(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"x\.gz: the gzip data is damaged or cut short"):
        read(tmp_path / "x.gz", gzip.compress(b">a\n" + b"MKVL" * 5000)[:-9])


@pytest.mark.parametrize("content", [b"MKVL\n", b"LOCUS x\n>a\nM\n", b"@read\nACGT\n+\nIIII\n", b"\x00\x01\x02\n"])
def test_what_does_not_begin_with_a_header_is_refused_with_its_line(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadInput, match=r"x\.fa, line 1: not FASTA"):
        read(tmp_path / "x.fa", content)


def test_standard_input_may_be_gzip_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(b">a\nMK\n"))
    with (tmp_path / "x").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert [record.sequence for record in read_fasta("-")] == [b"MK"]


def test_globs_expand_in_sorted_order_and_weird_names_are_taken_as_they_are(tmp_path: Path) -> None:
    for name in ("b.fa", "a.fa", "[x].fa", "- c.fa"):
        (tmp_path / name).touch()
    found = expand_inputs([str(tmp_path / "?.fa"), str(tmp_path / "[x].fa")])
    assert [Path(path).name for path in found] == ["a.fa", "b.fa", "[x].fa"]


def test_no_input_a_missing_file_and_a_file_given_twice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.fa").touch()
    with pytest.raises(UsageError, match="no FASTA given"):
        expand_inputs([])
    with pytest.raises(BadInput, match="no such file"):
        expand_inputs([str(tmp_path / "*.fasta")])
    for other in ("*.fa", ""):
        with pytest.raises(UsageError, match="given twice"):
            expand_inputs([str(tmp_path / "a.fa"), str(tmp_path / other)])
