"""bgzip as Biopython writes it, zstd as its own program does: read to the end, or refused."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from Bio import bgzf

from hpc_embed.errors import BadInput
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


def test_standard_input_may_be_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BufferedReader(io.BytesIO(zstd(b">a\nMK\n")))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw))
    assert [record.sequence for record in read_fasta("-")] == [b"MK"]
