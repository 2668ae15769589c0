"""bgzip as Biopython writes it, zstd as its own program does: read to the end, or refused."""

from __future__ import annotations

import bz2
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from Bio import bgzf

from hpc_embed.errors import BadInput
from hpc_embed.sequences import compression
from hpc_embed.sequences.fasta import read_fasta
from hpc_embed.sequences.sources import is_plain_file

FASTA = b"".join(b">r%d\n%s\n" % (i, b"MKVLAAGIVG" * (i % 30)) for i in range(2000))
CHECKED = bytes.fromhex("28b52ffd04580101003e610a4d4b564c4141474956474c4c4c414743534d4b564c0a3e620a5747510afc842014")
"""A frame with its checksum, by `zstd`."""
SKIPPABLE = b"\x5a\x2a\x4d\x18\x03\x00\x00\x00abc"


def zstd(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content, asbytes=True))


def sequences(path: Path) -> list[tuple[str, bytes]]:
    return [(record.id, record.sequence) for record in read_fasta(str(path))]


@pytest.fixture
def expected(tmp_path: Path) -> list[tuple[str, bytes]]:
    (tmp_path / "plain.fa").write_bytes(FASTA)
    assert is_plain_file(str(tmp_path / "plain.fa"))
    return sequences(tmp_path / "plain.fa")


def test_bgzip_is_read_to_its_last_block(tmp_path: Path, expected: list[tuple[str, bytes]]) -> None:
    path = tmp_path / "x.fa.gz"
    with bgzf.BgzfWriter(str(path)) as file:
        for at in range(0, len(FASTA), 1000):
            file.write(FASTA[at : at + 1000])
            file.flush()  # a block of its own
    assert path.read_bytes().count(b"\x1f\x8b\x08\x04") > 100
    assert not is_plain_file(str(path))
    assert sequences(path) == expected


@pytest.mark.parametrize("frame_bytes", [1, 1000, 100_000, len(FASTA)])
def test_zstd_is_read_to_its_last_frame(tmp_path: Path, expected: list[tuple[str, bytes]], frame_bytes: int) -> None:
    path = tmp_path / "x.fa"
    content = FASTA[:3000] if frame_bytes == 1 else FASTA
    frames = [zstd(content[at : at + frame_bytes]) for at in range(0, len(content), frame_bytes)]
    path.write_bytes(SKIPPABLE + zstd(b"") + SKIPPABLE.join(frames))
    assert not is_plain_file(str(path))
    assert sequences(path)[:-1] == expected[: len(sequences(path)) - 1]
    assert sum(len(letters) for _, letters in sequences(path)) == sum(map(len, content.split(b"\n")[1::2]))


def test_zstd_cut_anywhere_within_a_frame_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zst"
    first = zstd(b">a\nMKVL\n")
    whole = first + zstd(b">b\nMKVLAAGIVG\n")
    for size in (*range(4, len(first)), *range(len(first) + 1, len(whole))):
        path.write_bytes(whole[:size])
        with pytest.raises(BadInput, match=r"x\.zst: the zstd data is damaged or cut short"):
            sequences(path)


def test_zstd_with_another_byte_in_it_is_refused_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "x.zst"
    path.write_bytes(CHECKED)
    assert sequences(path) == [("a", b"MKVLAAGIVGLLLAGCSMKVL"), ("b", b"WGQ")]
    for at in range(9, len(CHECKED)):  # the content and its checksum
        path.write_bytes(CHECKED[:at] + bytes([CHECKED[at] ^ 1]) + CHECKED[at + 1 :])
        with pytest.raises(BadInput, match="zstd data is damaged"):
            sequences(path)


def test_bytes_behind_the_last_frame_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zst").write_bytes(zstd(b">a\nMK\n") + b"MKVLAAGIVG")
    with pytest.raises(BadInput, match="zstd data is damaged"):
        sequences(tmp_path / "x.zst")


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_bzip2_and_xz_are_read_to_their_last_stream(
    pack: Callable[[bytes], bytes], tmp_path: Path, expected: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.fa"
    streams = [pack(FASTA[at : at + 9999]) for at in range(0, len(FASTA), 9999)]
    padding = b"\0" * 8 if pack is lzma.compress else b""
    for packed_bytes in (5, 1 << 18):
        monkeypatch.setattr(compression, "PACKED_BYTES", packed_bytes)
        for content in (pack(FASTA), b"".join(streams), pack(b"") + padding.join(streams) + padding):
            path.write_bytes(content)
            assert not is_plain_file(str(path))
            assert sequences(path) == expected


@pytest.mark.parametrize(("name", "pack"), [("bzip2", bz2.compress), ("xz", lzma.compress)])
def test_bzip2_and_xz_cut_or_with_other_bytes_are_refused_wherever(
    name: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "x"
    first = pack(b">a\nMKVL\n")
    whole = first + pack(b">b\nMKVLAAGIVG\n")
    damaged = [whole[:size] for size in (*range(6, len(first)), *range(len(first) + 1, len(whole)))]
    damaged += [whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :] for at in range(6, len(whole), 3)]
    damaged += [whole + b"MKVL", whole[: len(first)] + b">b\nMK\n"]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(BadInput, match=f"x: the {name} data is damaged or cut short"):
            sequences(path)


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_damage_is_told_with_its_kind(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(pack(FASTA)[:-9])
    with pytest.raises(BadInput, match=r"damaged or cut short \(its end is missing\)\. Copy the file again"):
        sequences(tmp_path / "x")
    (tmp_path / "x").write_bytes(pack(FASTA) + b"MKVL")
    with pytest.raises(BadInput, match=r"damaged or cut short \((Invalid data stream|Input format not supported)"):
        sequences(tmp_path / "x")


def test_a_text_that_begins_as_the_name_of_bzip2_is_no_bzip2() -> None:
    for head in (b"BZh9\n>a", b"BZhX1A", b"BZh", b"PKVLAA", b">*M\x18", b""):
        assert compression.compression_of(head) is None
    assert compression.compression_of(bz2.compress(b"")[:6]) == "bzip2"


def test_standard_input_may_be_zstd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(zstd(b">a\nMK\n"))
    with (tmp_path / "x").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert [record.sequence for record in read_fasta("-")] == [b"MK"]
