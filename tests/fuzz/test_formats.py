"""FASTQ and tables of any content against their oracles: the same records, and the same refused."""

from __future__ import annotations

import csv
import io
import re

import pytest
from Bio import SeqIO
from Bio.SeqIO.QualityIO import FastqGeneralIterator
from hypothesis import strategies as st

from hpc_embed.errors import BadInput
from hpc_embed.screen import printable
from hpc_embed.sequences.fastq import parse_fastq
from hpc_embed.sequences.lines import NotSequence, letters_of
from hpc_embed.sequences.tables import Columns, parse_table
from tests.fuzz.parsers import FASTQ
from tests.fuzz.test_fuzz import changed, edits, fuzz

GRAPHIC = st.characters(min_codepoint=33, max_codepoint=126)
READ = st.text("ACGTNacgtu", max_size=30).flatmap(
    lambda letters: st.tuples(
        st.text(GRAPHIC, min_size=1, max_size=8),
        st.just(letters),
        st.text(GRAPHIC, min_size=len(letters), max_size=len(letters)),
        st.integers(1, 40),
        st.booleans(),
    )
)


def test_generated_fastq_is_read_as_biopython_reads_it() -> None:
    def read(content: bytes) -> None:
        oracle = SeqIO.parse(io.StringIO(content.decode()), "fastq")
        found = parse_fastq(io.BytesIO(content), "x")
        assert [(one.id, one.sequence) for one in found] == [(one.id, str(one.seq).encode()) for one in oracle]

    fuzz(read, st.lists(READ, max_size=6).map(lambda reads: "".join(map(written, reads)).encode()))


def written(read: tuple[str, str, str, int, bool]) -> str:
    name, letters, qualities, width, repeats = read
    lines = [
        "\n".join(text[at : at + width] for at in range(0, len(text), width)) or "" for text in (letters, qualities)
    ]
    return f"@{name}\n{lines[0]}\n+{name if repeats else ''}\n{lines[1]}\n"


def test_mutated_fastq_is_refused_where_biopython_refuses_it() -> None:
    def read(content: bytes) -> None:
        try:
            text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", "surrogateescape")
            kept = text.read()
            while kept.strip() and not kept.partition("\n")[0].strip():
                kept = kept.partition("\n")[2]
            reads = FastqGeneralIterator(io.StringIO(kept)) if kept.strip() else []
            expected = [letters_of(sequence).letters for _, sequence, qualities in reads if check(qualities)]
        except ValueError:
            expected = None
        try:
            found = [record.sequence for record in parse_fastq(io.BytesIO(content), "x")]
        except BadInput:
            assert expected is None
        else:
            assert expected is not None
            assert found == [letters.encode("ascii", "replace") for letters in expected]

    fuzz(read, st.builds(changed, st.just(FASTQ), edits))


def check(qualities: str) -> bool:
    if any(not "!" <= quality <= "~" for quality in qualities):
        raise ValueError(qualities)
    return True


def test_any_text_in_a_table_comes_back_as_the_csv_module_wrote_it() -> None:
    def read(content: bytes) -> None:
        rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
        try:
            expected = [(printable(" ".join(row["id"].split())), letters_in(row["seq"])) for row in rows]
        except NotSequence as error:
            with pytest.raises(BadInput, match=re.escape(" ".join(str(error).split()))):
                list(parse_table(io.BytesIO(content), "x", Columns("seq")))
            return
        found = list(parse_table(io.BytesIO(content), "x", Columns("seq")))
        assert [(record.id, record.sequence) for record in found] == expected
        starts = [record.line for record in found]
        assert starts == sorted(set(starts))

    fuzz(read, st.lists(st.tuples(CELL, CELL, CELL), max_size=5).map(as_csv))


def letters_in(cell: str) -> bytes:
    return b"".join(letters_of(line).letters.encode("ascii", "replace") for line in cell.splitlines())


CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def as_csv(rows: list[tuple[str, str, str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("note", "id", "seq"), *rows])
    return text.getvalue().encode()
