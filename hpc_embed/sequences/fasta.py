"""FASTA files to records. Biopython parses; this module opens, counts lines and refuses what is not FASTA."""

from __future__ import annotations

import glob
import gzip
import io
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO, cast

from Bio.SeqIO.FastaIO import SimpleFastaParser

from hpc_embed.errors import BadInput, UsageError

STANDARD_INPUT = "-"
GZIP_MAGIC = b"\x1f\x8b"


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


def expand_inputs(patterns: Iterable[str]) -> list[str]:
    """Files that the arguments name, globs in sorted order, `-` for standard input.

    Raises UsageError for none at all, or the same file twice, and BadInput for one that is not there.
    """
    sources: list[str] = []
    for pattern in patterns:
        matches = (
            [pattern] if pattern == STANDARD_INPUT or Path(pattern).exists() else sorted(glob.glob(pattern))  # noqa: PTH207
        )
        if not matches:
            raise BadInput(f"{pattern}: no such file.", remedy="Check the path, or quote the glob.")
        sources += matches
    if not sources:
        raise UsageError(
            "no FASTA given.", remedy="Name files on the command line, or set fasta: [...] in hpc-embed.yaml."
        )
    for source in sources:
        if sources.count(source) > 1:
            raise UsageError(f"{source} is given twice.", remedy="Name each file once.")
        if source != STANDARD_INPUT and Path(source).is_dir():
            raise BadInput(f"{source} is a folder.", remedy=f"Give its files: '{source}/*.fasta'.")
    return sources


def read_fasta(source: str) -> Iterator[FastaRecord]:
    """Stream the records of one file, plain or gzip, or of standard input.

    Raises BadInput, naming the file and line, where it is not FASTA, is cut short or cannot be read.
    """
    with _open_text(source) as text:
        lines = _CountedLines(text, source)
        try:
            for title, sequence in SimpleFastaParser(cast(TextIO, lines)):
                yield _record(title, sequence, lines.take_header_line())
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BadInput(
                f"{source}: the gzip data is damaged or cut short ({error}).", remedy="Copy the file again."
            ) from error
        except OSError as error:
            raise BadInput(f"{source}: cannot be read ({error.strerror}).", remedy="Check the file.") from error


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
                    remedy="Give FASTA, plain or gzip.",
                )
            yield line


def _record(title: str, sequence: str, line: int) -> FastaRecord:
    if not title.isascii():
        title = title.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    words = title.split(None, 1)
    letters = "".join(sequence.split()).encode("ascii", "replace")
    return FastaRecord(words[0] if words else "", title, letters, line)


@contextmanager
def _open_text(source: str) -> Iterator[TextIO]:
    with ExitStack() as stack:
        try:
            raw = sys.stdin.buffer if source == STANDARD_INPUT else stack.enter_context(Path(source).open("rb"))
        except OSError as error:
            raise BadInput(
                f"{source}: cannot be opened ({error.strerror}).", remedy="Check path and permissions."
            ) from error
        buffered = cast(io.BufferedReader, raw)
        is_gzip = buffered.peek(2)[:2] == GZIP_MAGIC
        binary = stack.enter_context(gzip.GzipFile(fileobj=buffered)) if is_gzip else buffered
        # newline=None: \n, \r\n and a lone \r all end a line.
        yield io.TextIOWrapper(cast(BinaryIO, binary), encoding="utf-8-sig", errors="surrogateescape", newline=None)
