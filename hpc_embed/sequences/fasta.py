"""FASTA by Biopython: the reader of what the kernel leaves, and the oracle that the kernel is held against."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, TextIO, cast

from Bio.SeqIO.FastaIO import SimpleFastaParser

from hpc_embed.errors import BadInput
from hpc_embed.screen import printable
from hpc_embed.sequences.lines import COMMENT, NotSequence, letters_of, refuse_pir
from hpc_embed.sequences.places import Place
from hpc_embed.sequences.sources import opened
from hpc_embed.sequences.streams import reading


class FastaRecord(NamedTuple):
    """One entry as it stands in the file."""

    id: str
    """First word of the header; may be empty, may occur twice."""
    description: str
    """The whole header; bytes that are not UTF-8 and control characters but for tabs stand as `\\xNN`."""
    sequence: bytes
    """Letters as written, without white space; a character beyond ASCII stands as `?`."""
    line: int
    """Line of the header, counted from 1."""


def read_fasta(source: str) -> Iterator[FastaRecord]:
    """Stream the records of one file, plain or gzip, or of standard input.

    Raises BadInput, naming the file and line, where it is not FASTA, is cut short or cannot be read.
    """
    with opened(source) as binary, reading(source):
        yield from parse_records(binary, source)


@dataclass
class Noticed:
    """What is to be said of lines, counted from 0."""

    num_cut: int = 0
    """Lines of which something was left out: comments, numbers of positions, the blanks between columns."""
    first_cut: int | None = None
    fault: Place | None = None
    """The line that is no FASTA, where reading ends."""

    def cut(self, line: int) -> None:
        """Note that something is left out of a line."""
        self.num_cut += 1
        if self.first_cut is None:
            self.first_cut = line


def parse_records(binary: BinaryIO, source: str) -> Iterator[FastaRecord]:
    """The records of a file; BadInput, with its line, for one that is no FASTA."""
    noticed = Noticed()
    yield from parse_lines(binary, noticed)
    if noticed.fault:
        raise BadInput(f"{noticed.fault.of(source, 0)}: {noticed.fault.words}.", remedy=noticed.fault.remedy)


def parse_lines(binary: BinaryIO, noticed: Noticed) -> Iterator[FastaRecord]:
    """The records of a file, or of a stretch of one that begins and ends where a record does, up to a fault."""
    with text_of(binary, newline="") as text:
        lines = _CheckedLines(text, noticed)
        for title, sequence in SimpleFastaParser(cast(TextIO, lines)):
            if noticed.fault:
                return  # within this record
            yield record_of(title, sequence, lines.take_header_line())


@contextmanager
def text_of(binary: BinaryIO, newline: str | None = None) -> Iterator[io.TextIOWrapper]:
    """A file as text. Lines end at \\n, \\r\\n and a lone \\r, and with \\n unless `newline` is ""."""
    text = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
    try:
        yield text
    finally:
        text.detach()  # the file is its opener's to close


class _CheckedLines:
    """The lines of a file up to one that is no FASTA, and the line numbers of the headers that the parser has taken."""

    def __init__(self, text: Iterable[str], noticed: Noticed) -> None:
        self._text = text
        self._noticed = noticed
        self._header_lines: list[int] = []
        self._ends_with_return = False
        """Of the header at hand, alone."""

    def __iter__(self) -> Iterator[str]:
        # The parser iterates twice, first for the opening header and then for the rest.
        if not hasattr(self, "_lines"):
            self._lines = self._check()
        return self._lines

    def take_header_line(self) -> int:
        """Line of the oldest header not yet taken; the parser runs one header ahead of its records."""
        return self._header_lines.pop(0)

    def _check(self) -> Iterator[str]:
        for number, line in enumerate(self._text):
            try:
                if line[0] == ">":
                    refuse_pir(line)
                    self._header_lines.append(number + 1)
                    self._ends_with_return = line.endswith("\r")
                else:
                    line = self._letters(number, line)
            except NotSequence as error:
                self._noticed.fault = Place(number, None, str(error), error.remedy)
                return
            yield line

    def _letters(self, number: int, line: str) -> str:
        if not self._header_lines and line.strip() and not line.startswith(COMMENT):
            raise NotSequence(
                "not FASTA, the first record does not begin with '>'",
                "Give FASTA or FASTQ; for a table say --sequence-column.",
            )
        if self._ends_with_return and line.endswith("\n"):
            raise NotSequence(
                "a carriage return alone in the header above, in a record whose lines end otherwise",
                "Take it out: what stands behind it would become residues.",
            )
        letters, is_cut = letters_of(line)
        if is_cut:
            self._noticed.cut(number)
        return letters + "\n"


def record_of(title: str, sequence: str, line: int, *, is_id: bool = False) -> FastaRecord:
    """A record of its letters and what stands in a file; the id is the first word of its title, or all of it."""
    title = printable(title)
    words = [title] if is_id else title.split(None, 1)
    return FastaRecord(words[0] if words else "", title, sequence.encode("ascii", "replace"), line)
