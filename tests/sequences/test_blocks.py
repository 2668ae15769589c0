"""The kernel against Biopython and hashlib: the same records from any bytes, however they are cut into blocks."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hpc_embed.errors import BadInput
from hpc_embed.model import ESM2_LETTERS
from hpc_embed.sequences import compression, kernel, sources
from hpc_embed.sequences.blocks import parse_block
from hpc_embed.sequences.fasta import FastaRecord, parse_records, read_fasta
from hpc_embed.sequences.letters import ResiduePolicy
from hpc_embed.sequences.sources import Stretch, blocks_of, blocks_within, opened
from hpc_embed.sequences.streams import reader

ODD = [
    b"",
    b"\n",
    b">",
    b">a",
    b">a\n",
    b">\n>\n>",
    b">a\r\nMK\r\nVL\r\n>b\r\n",
    b">a\rMK\r>b\rVL",
    b">a\nMK\r",
    b">a\nM\rK\n>b\nV\n",
    b">a\r\r\nMK\n>b\n\r\nV",
    b">a \t \nM K\tV\x0bL\x1c\n\n\n>b c\x1dd\nV>W\n",
    b"\xef\xbb\xbf\n \n>a\nM",
    b"\n\n>a\nM\xffK\n>b\xc3\xa9 x\nV\n>c\nW",
    b">a\xc2\xa0b\nM\xe2\x80\x83K\xc2\x85V\n>b\n\x00\x01\nV",
    b">\x1c a\x1fb\nMK",
    b"> > >\n>>\nM>\n",
    b">a;b\n;comment\nMK\n",
    b"MKVL\n",
    b" >a\nM\n",
    b"\x85\n>a\nM",
    b"\r>a\rM",
    b"LOCUS\n>a\nM\n",
]
PIECES = [b"\n", b"\n>", b"\n>", b">", b"\r\n", b"\r", b" ", b"\t", b"\x1c", b"MKVL", b"ACGT" * 40, b"x", b"*", b"\xc3"]
PIECES += [b"\xa9", b"\xff", b"\x00", b"sp|P1|X some protein"]


def generated(count: int) -> Iterator[bytes]:
    draw = random.Random(11)
    for _ in range(count):
        usual = draw.random() < 0.5
        pieces = PIECES[:4] + PIECES[9:12] if usual else PIECES
        yield b">" + b"".join(draw.choices(pieces, k=draw.randint(0, 40)))


def by_biopython(content: bytes) -> list[FastaRecord] | str:
    try:
        return list(parse_records(io.BytesIO(content), "x"))
    except BadInput as error:
        return str(error)


def in_blocks(content: bytes, block_bytes: int) -> list[FastaRecord] | str:
    stream = io.BytesIO(content)
    records: list[FastaRecord] = []
    line = 1
    try:
        for number, raw in enumerate(blocks_of(lambda _: stream.read(block_bytes), "in.fasta")):
            block = parse_block(raw, is_first=number == 0)
            stops = np.cumsum(block.lengths_N).tolist()
            for at, (name, description) in enumerate(zip(block.ids, block.descriptions, strict=True)):
                letters = block.letters[stops[at] - block.lengths_N[at] : stops[at]].tobytes()
                records.append(FastaRecord(str(name), str(description), letters, int(block.lines_N[at]) + line))
            if block.fault:
                place = block.fault.of("x", line - 1)
                raise BadInput(f"{place}: {block.fault.words}.", remedy=block.fault.remedy)
            line += block.num_lines
    except BadInput as error:
        return str(error)
    return records


@pytest.mark.parametrize("block_bytes", [1, 3, 1000])
@pytest.mark.parametrize("content", ODD)
def test_odd_files_are_read_as_biopython_reads_them(content: bytes, block_bytes: int) -> None:
    assert in_blocks(content, block_bytes) == by_biopython(content)


def test_ten_thousand_generated_files_are_read_as_biopython_reads_them() -> None:
    for number, content in enumerate(generated(10_000)):
        assert in_blocks(content, 1 + number % 50) == by_biopython(content), content


def test_there_is_a_kernel_to_test() -> None:
    assert kernel.is_available(), "no C compiler when the package was installed"


@pytest.mark.parametrize("block_bytes", [1, 3, 20, 1000])
@pytest.mark.parametrize("content", [*ODD[5:8], b">a\n" + b"MKVL\n" * 30 + b">b x\nMK\n>c\n\n>d\nV"])
def test_stretches_of_a_plain_file_give_each_record_once(
    content: bytes, block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(sources, "LOOK_BYTES", min(block_bytes, 2))
    path = tmp_path / "x.fa"
    path.write_bytes(content)
    starts = [0, *(at + 1 for at in range(len(content)) if content[at : at + 2] == b"\n>"), len(content)]
    for width in range(1, len(content) + 1):
        found = b""
        for start in range(0, len(content), width):
            with path.open("rb") as file:
                for block in blocks_within("x", file, Stretch(start, min(start + width, len(content)))):
                    assert len(found) in starts
                    found += block
        assert found == content


def test_a_long_record_is_one_block_though_it_is_read_in_many(tmp_path: Path) -> None:
    path = tmp_path / "x.fa"
    path.write_bytes(b">a\n" + b"ACGT\n" * 50_000 + b">b\nA")
    with opened(str(path)) as file:
        sizes = [len(raw) for raw in blocks_of(lambda _: reader("x", file)(100), "x")]
    assert sizes == [250_003, 4]


@pytest.mark.parametrize("has_library", [True, False])
def test_gzip_of_several_members_is_read_with_and_without_the_fast_library(
    has_library: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b">a\nM\n") + gzip.compress(b">b\nK\n"))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b">a\n" + b"MKVL" * 5000)[:-9])
    if not has_library:
        monkeypatch.setattr(compression, "igzip_threaded", None)
    assert [record.id for record in read_fasta(str(path))] == ["a", "b"]
    with pytest.raises(BadInput, match="damaged or cut short"):
        list(read_fasta(str(tmp_path / "cut.gz")))


def spans(draw: random.Random) -> tuple[kernel.Bytes, kernel.Ints, kernel.Ints]:
    lengths = np.array([draw.choice([0, 1, 10, 127, 128, 129, 256, 300]) for _ in range(50)])
    letters = np.frombuffer(bytearray(draw.choices(b"ACDEacdeJX*.", k=int(lengths.sum()))), dtype=np.uint8)
    return letters, np.cumsum(lengths) - lengths, lengths


@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_digests_are_those_of_hashlib(lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel.is_available()
    monkeypatch.setattr(kernel, "MOST_LANES", lanes)
    letters, starts, lengths = spans(random.Random(1))
    expected = [
        hashlib.blake2b(letters[start : start + length].tobytes(), digest_size=16).digest()
        for start, length in zip(starts, lengths, strict=True)
    ]
    assert kernel.digests(letters, starts, lengths).tobytes() == b"".join(expected)


@pytest.mark.parametrize("has_library", [True, False])
def test_digests_of_words_are_those_of_hashlib(has_library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_library:
        monkeypatch.setattr(kernel, "_library", lambda: None)
    words = ["a", "", "bc", "naïve", "sp|P1|X"]
    expected = [hashlib.blake2b(word.encode(), digest_size=16).digest() for word in words]
    assert kernel.digests_of(pa.array(words)).tobytes() == b"".join(expected)
    assert kernel.digests_of(pa.array(words)[1:4]).tobytes() == b"".join(expected[1:4])
    assert len(kernel.digests_of(pa.array([], pa.string()))) == 0


@pytest.mark.parametrize("case", ["upper", "keep"])
def test_kernel_and_python_apply_the_policy_alike(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = ResiduePolicy("protein", ESM2_LETTERS, case)  # type: ignore[arg-type]
    letters, starts, lengths = spans(random.Random(2))
    ours = letters.copy()
    applied = kernel.apply_policy(policy, ours, starts, lengths)
    packed = kernel.pack(ours, starts, applied.lengths_N).tobytes()
    monkeypatch.setattr(kernel, "_library", lambda: None)
    oracle = letters.copy()
    expected = kernel.apply_policy(policy, oracle, starts, lengths)
    assert [column.tolist() for column in applied] == [column.tolist() for column in expected]
    assert packed == kernel.pack(oracle, starts, expected.lengths_N).tobytes()
    assert sum(expected.num_unknown_N) > 0


def test_kernel_and_python_gather_the_same_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    letters, starts, lengths = spans(random.Random(4))
    order = np.random.default_rng(4).permutation(len(starts))
    gathered = kernel.gather(letters, starts[order], lengths[order])
    assert kernel.gather(letters, starts[:0], lengths[:0]).tobytes() == b""
    monkeypatch.setattr(kernel, "_library", lambda: None)
    assert gathered.tobytes() == kernel.gather(letters, starts[order], lengths[order]).tobytes()
    assert len(gathered) == lengths.sum()


def test_a_file_that_someone_cuts_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 7)
    path = tmp_path / "x.fa"
    path.write_bytes(b">a\nMKV\n" * 5)
    with path.open("rb", buffering=2) as file:
        blocks = blocks_within("x", file, Stretch(0, 35))
        assert next(blocks) == b">a\nMKV\n"
        path.write_bytes(b">a\nMKV\n" + b">a\nMK")
        with pytest.raises(BadInput, match="x: changed while it was read"):
            list(blocks)


@pytest.mark.parametrize("stretch", [Stretch(0, 35), Stretch(7, 21), Stretch(20, 35)])
def test_a_stretch_that_is_there_in_part_or_not_at_all_is_refused(stretch: Stretch, tmp_path: Path) -> None:
    path = tmp_path / "x.fa"
    for size in (0, 1, 7, 18, 19, stretch.stop - 1):
        path.write_bytes((b">a\nMKV\n" * 5)[:size])
        with path.open("rb") as file, pytest.raises(BadInput, match="x: changed while it was read"):
            list(blocks_within("x", file, stretch))


def test_in_a_stretch_too_a_record_beyond_the_longest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 16)
    monkeypatch.setattr(sources, "LONGEST_RECORD", 100)
    path = tmp_path / "x.fa"
    for num_letters in (96, 97, 1000):
        path.write_bytes(b">a\nMKVL\n" + b">b\n" + b"A" * num_letters + b"\n")
        with path.open("rb") as file:
            blocks = blocks_within("x", file, Stretch(0, path.stat().st_size))
            if num_letters == 96:
                assert b"".join(blocks) == path.read_bytes()
            else:
                with pytest.raises(BadInput, match=r"x: the record that begins with b'>b' is longer than 100 bytes"):
                    next(blocks)
