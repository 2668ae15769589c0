"""FASTA by Biopython: the reader of what the kernel leaves, and the oracle that the kernel is held against."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple, TextIO, cast

from Bio.SeqIO.FastaIO import SimpleFastaParser

from hpc_embed.errors import BadInput
from hpc_embed.sequences.sources import opened, reading


class FastaRecord(NamedTuple):
    """One entry as it stands in the file."""

    id: str
    """First word of the header; may be empty, may occur twice."""
    description: str
    """The whole header; bytes that are not UTF-8 stand as `\\xNN`."""
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


def parse_records(binary: BinaryIO, source: str) -> Iterator[FastaRecord]:
    """The records of a file, or of a stretch of one that begins and ends where a record does."""
    with text_of(binary) as text:
        lines = _CountedLines(text, source)
        for title, sequence in SimpleFastaParser(cast(TextIO, lines)):
            yield record_of(title, sequence, lines.take_header_line())


@contextmanager
def text_of(binary: BinaryIO, newline: str | None = None) -> Iterator[io.TextIOWrapper]:
    """A file as text. Lines end at \\n, \\r\\n and a lone \\r, and with \\n unless `newline` is ""."""
    text = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
    try:
        yield text
    finally:
        text.detach()  # the file is its opener's to close


class _CountedLines:
    """The lines of a file, with the line numbers of the headers that the parser has taken."""

    def __init__(self, text: Iterable[str], source: str) -> None:
        self._text = text
        self._source = source
        self._header_lines: list[int] = []

    def __iter__(self) -> Iterator[str]:
        # The parser iterates twice, first for the opening header and then for the rest.
        if not hasattr(self, "_lines"):
            self._lines = self._count()
        return self._lines

    def take_header_line(self) -> int:
        """Line of the oldest header not yet taken; the parser runs one header ahead of its records."""
        return self._header_lines.pop(0)

    def _count(self) -> Iterator[str]:
        for number, line in enumerate(self._text, 1):
            if line[0] == ">":
                self._header_lines.append(number)
            elif not self._header_lines and line.strip():
                raise BadInput(
                    f"{self._source}, line {number}: not FASTA, the first record does not begin with '>'.",
                    remedy="Give FASTA or FASTQ; for a table say --sequence-column.",
                )
            yield line


def record_of(title: str, sequence: str, line: int, *, is_id: bool = False) -> FastaRecord:
    """A record of what stands in a file; the id is the first word of its title, or all of it."""
    if not title.isascii():
        title = title.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    words = [title] if is_id else title.split(None, 1)
    letters = "".join(sequence.split()).encode("ascii", "replace")
    return FastaRecord(words[0] if words else "", title, letters, line)
