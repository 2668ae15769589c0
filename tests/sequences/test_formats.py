"""FASTQ as Biopython reads it, tables as the csv module and pandas do; what is malformed is told with its line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas
import pytest
from Bio import SeqIO

from hpc_embed.errors import BadInput
from hpc_embed.sequences import sources
from hpc_embed.sequences.blocks import Block
from hpc_embed.sequences.fasta import FastaRecord
from hpc_embed.sequences.fastq import parse_fastq
from hpc_embed.sequences.formats import first_records, format_of, pieces_of
from hpc_embed.sequences.tables import Columns, parse_table

SEQ = Columns("seq")
READS = [
    b"@r1 first\nACGT\n+\nIIII\n",
    b"@r1\nACGT\n+r1\nIIII\n@r2\nAC\n+\nII",
    b"@r1 x\nACGT\nACG\n+\nIIII\nIII\n@r2\nA\n+\n@\n",
    b"@r1\nACGT\n+\n@@@@\n@r2\nNN\n+\n+@\n",
    b"@r1\r\nACGT\r\n+\r\nIIII\r\n@r2\r\nA\r\n+\r\nI\r\n",
    b"@r1\rACGT\r+\rIIII\r",
    b"@empty\n\n+\n\n@r2\nACGU\n+\nIIII\n",
    b"@r1\nacgtn\n+\nIIIII\n\n\n",
    b"",
]


@pytest.mark.parametrize("content", READS)
def test_fastq_is_read_as_biopython_reads_it(content: bytes) -> None:
    oracle = SeqIO.parse(io.StringIO(content.decode(), newline=None), "fastq")
    assert [(record.id, record.description, record.sequence.decode()) for record in fastq(content)] == [
        (record.id, record.description, str(record.seq)) for record in oracle
    ]


def fastq(content: bytes) -> list[FastaRecord]:
    return list(parse_fastq(io.BytesIO(content), "x.fq"))


def test_lines_are_those_of_the_titles_and_blank_ones_in_front_are_passed_over() -> None:
    assert [record.line for record in fastq(b"\n \n@a\nAC\nGT\n+\nIIII\n@b\nA\n+\nI\n")] == [3, 8]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"@a\nACGT\n+\nIIII\n@b\nACGT\n+\nIII\n", "line 5: not FASTQ (Lengths of sequence and quality"),
        (b"@a\nACGT\n+\nIIII\n@b\nACGT\n+\nIIIII\n", "line 5: not FASTQ (Lengths of sequence and quality"),
        (b"@a\nACGT\n+\nIIII\n@b\nACGT\n+\n", "line 5: not FASTQ (Unexpected end of file)"),
        (b"@a\nACGT\n+\nIIII\n@b\nACGT\n", "line 5: not FASTQ (End of file without quality information)"),
        (b"@a\nACGT\n+b\nIIII\n", "line 1: not FASTQ (Sequence and quality captions differ)"),
        (b"\n@a\nAC GT\n+\nIIIII\n", "line 2: not FASTQ (Whitespace is not allowed in the sequence)"),
        (b"@a\nACGT\n+\nII\0I\n", "line 1: not FASTQ (a byte among its qualities that is none)"),
        (b"@a\nACGT\n+\nI II\n", "line 1: not FASTQ (a byte among its qualities that is none)"),
        (b"@a\nACGT\n+\nII\x7fI\n", "line 1: not FASTQ (a byte among its qualities that is none)"),
        (b"@a\nAC>T\n+\nIIII\n", "line 1: not FASTQ ('>' in a sequence"),
        (b"@a\nACGT\n+\nIIII\n>b\nACGT\n", "line 1: not FASTQ (Lengths of sequence and quality"),
    ],
)
def test_malformed_fastq_is_refused_with_the_line_of_its_record(content: bytes, words: str) -> None:
    with pytest.raises(BadInput) as told:
        fastq(content)
    assert f"x.fq, {words}" in str(told.value)
    assert "\n" not in str(told.value)


TABLES = [
    "id,seq\na,MK\nb,VL\n",
    "seq\tname\nMK\tsp|P1\nVL\tb c\n",
    'id;seq;note\na;MK;"x;y"\n"b ""b""";VL;z\n',
    '"id","seq"\n"a","M\nK"\n\n"b","V L"\n',
    "id,seq\r\na,MK\r\nb,\r\n",
    "name,id,seq\nx,1,MK\ny,2,VL\n",
]


@pytest.mark.parametrize("content", TABLES)
def test_tables_are_read_as_pandas_reads_them(content: str) -> None:
    oracle = pandas.read_csv(io.StringIO(content), sep=None, engine="python", dtype=str, keep_default_na=False)
    names = oracle["id"] if "id" in oracle else oracle["name"]
    assert [(record.id, record.sequence.decode()) for record in table(content.encode())] == [
        (name, "".join(letters.split())) for name, letters in zip(names, oracle["seq"], strict=True)
    ]


def table(content: bytes, columns: Columns = SEQ) -> list[FastaRecord]:
    return list(parse_table(io.BytesIO(content), "x.csv", columns))


def test_lines_of_rows_count_those_within_quotes_and_blank_ones() -> None:
    assert [record.line for record in table(b'id,seq\na,"M\nK"\n\nb,V\nc,L\n')] == [2, 5, 6]


def test_the_id_is_the_named_column_or_id_or_the_first_other_one_or_the_number_of_the_row() -> None:
    assert [record.id for record in table(b"a,id,seq\nx,1,MK\n", Columns("seq", "a"))] == ["x"]
    assert [record.id for record in table(b"a,id,seq\nx,1,MK\n")] == ["1"]
    assert [record.id for record in table(b"seq,a,b\nMK,x,y\n")] == ["x"]
    assert [record.id for record in table(b"seq\nMK\n\nVL\n")] == ["1", "2"]


def test_an_id_is_the_whole_cell_its_white_space_made_one_blank_and_its_odd_bytes_told() -> None:
    (record,) = table(b'\xef\xbb\xbfid,seq\n"> a\n\tb\xff",MK\xc3\xa9\n')
    assert record[:3] == ("> a b\\xff", "> a b\\xff", b"MK?")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id,sequence\na,MK\n", "x.csv: no column 'seq' in its header. Give --sequence-column one of: id, sequence."),
        (b"", "x.csv: no column 'seq' in its header. Give --sequence-column one of: none, the file is empty."),
        (b"id,seq\na,MK\nb,M,K\n", "x.csv, line 3: 3 cells, and the header has 2."),
        (b"id,seq\na,MK\nb\n", "x.csv, line 3: 1 cells, and the header has 2."),
        (b'id,seq\na,MK\nb,"MK\nc,VL\n', "x.csv, line 3: not a table (unexpected end of data)."),
        (b'id,seq\na,"M"K\n', "x.csv, line 2: not a table ("),
        (b'"i"d,seq\na,MK\n', "x.csv, line 1: not a table ("),
        (b"id,seq\na,MK\nb,M>K\n", "x.csv, line 3: '>' in a sequence"),
        (b"id,seq\na,MK\nb,no such entry\n", "x.csv, line 3: 'no such entry' is text with blanks"),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_line(content: bytes, words: str) -> None:
    with pytest.raises(BadInput) as told:
        table(content)
    assert words in str(told.value)


def test_a_column_of_ids_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(BadInput, match=r"x\.csv: no column 'name' in its header. Give --id-column one of: id, seq\."):
        table(b"id,seq\na,MK\n", Columns("seq", "name"))


@pytest.mark.parametrize(
    ("head", "format"),
    [(b">a\nM", "FASTA"), (b"@a\nA", "FASTQ"), (b"\xef\xbb\xbf\n@a\nA", "FASTQ"), (b"MK", "FASTA"), (b"", "FASTA")],
)
def test_a_format_is_known_by_the_first_bytes(head: bytes, format: str) -> None:
    assert format_of(head, None) == format
    assert format_of(head, SEQ) == "table"


def test_many_small_blocks_hold_the_records_and_lines_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 300)
    reads = b"".join(b"@r%d x\nACGT%s\n\n+\nIIII%s\n" % (i, b"A" * i, b"I" * i) for i in range(100))
    rows = "id,seq\n" + "".join(f'r{i},"MK{"L" * i}\n"\n\n' for i in range(100))
    assert in_blocks(reads, None) == list(parse_fastq(io.BytesIO(reads), "x"))
    assert in_blocks(rows.encode(), SEQ) == table(rows.encode())


def in_blocks(content: bytes, columns: Columns | None) -> list[FastaRecord]:
    stream, found, num_lines = io.BytesIO(content), [], 0
    blocks = list(pieces_of(lambda size: stream.read(min(size, 7)), "x", format_of(content, columns), columns))
    assert len(blocks) > 5
    for block in blocks:
        assert isinstance(block, Block)
        found += [record._replace(line=record.line + num_lines) for record in records_of(block)]
        num_lines += block.num_lines
    return found


def records_of(block: Block) -> Iterator[FastaRecord]:
    letters = np.split(block.letters, np.cumsum(block.lengths_N)[:-1])
    for name, description, part, line in zip(block.ids, block.descriptions, letters, block.lines_N, strict=True):
        yield FastaRecord(str(name), str(description), part.tobytes(), int(line) + 1)


def test_of_a_head_that_is_cut_out_of_a_source_what_can_be_read_is_looked_at() -> None:
    content = READS[0] * 5
    cut = content[:-3]
    assert len(first_records(cut, "x", None, 1000, is_cut=True).ids) == 4
    with pytest.raises(BadInput, match="x, line 17: not FASTQ"):
        first_records(cut, "x", None, 1000, is_cut=False)
    assert len(first_records(content, "x", None, 2, is_cut=False).ids) == 2
    assert len(first_records(b'id,seq\na,MK\nb,"M', "x", SEQ, 1000, is_cut=True).ids) == 1


def test_the_csv_module_is_not_kept_from_long_cells(tmp_path: Path) -> None:
    long = "ACGT" * 100_000
    text = io.StringIO()
    csv.writer(text).writerows([["id", "seq"], ["a", long]])
    assert table(text.getvalue().encode())[0].sequence == long.encode()


def test_a_limit_holds_for_each_record_of_fastq_and_not_for_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LONGEST_RECORD", 100)
    assert len(fastq(READS[0] * 50)) == 50
    long = b"@long\n" + b"A" * 45 + b"\n+\n" + b"I" * 45
    assert [len(record.sequence) for record in fastq(long)] == [45]
    with pytest.raises(BadInput, match=r"line 5: not FASTQ \(a record longer than 100 bytes"):
        fastq(READS[0] + long.replace(b"A", b"AA").replace(b"I", b"II"))


def test_a_carriage_return_within_quotes_stays_in_its_cell() -> None:
    (record,) = table(b'id,seq\r\n"a\rb","M\rK\r\nV"\r\n')
    assert record == ("a b", "a b", b"MKV", 2)
    assert table(b'id,note,seq\na,"x\r\n\r\ny",MK\nb,,V\n')[1].line == 5


@pytest.mark.parametrize(("content", "columns"), [(b"@a\nAC\n+\nI\n", None), (b"id,seq\na\n", SEQ)])
def test_a_fault_in_a_piece_names_its_source(content: bytes, columns: Columns | None) -> None:
    with pytest.raises(BadInput, match="in here, line "):
        list(pieces_of(io.BytesIO(content).read, "in here", format_of(content, columns), columns))


def test_a_record_that_is_too_long_is_told_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LONGEST_RECORD", 10)
    with pytest.raises(BadInput, match="in here: the record that begins with b'>a' is longer than 10 bytes"):
        list(pieces_of(io.BytesIO(b">a\nACGTACGTACGT").read, "in here", "FASTA", None))
