"""FASTQ by Biopython: sequences over one line or several; their qualities are held against them, and dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, TextIO, cast

from Bio.SeqIO.QualityIO import FastqGeneralIterator

from hpc_embed.errors import BadInput
from hpc_embed.sequences import sources
from hpc_embed.sequences.fasta import FastaRecord, record_of, text_of
from hpc_embed.sequences.lines import letters_of

NO_QUALITY = re.compile(r"[^!-~]")
"""As of a file that was damaged: qualities themselves are dropped."""


def parse_fastq(binary: BinaryIO, source: str) -> Iterator[FastaRecord]:
    """The records of a file; BadInput, with the line where a record begins, where one is malformed or cut short."""
    with text_of(binary) as text:
        lines = _Lines(text)
        line = lines.skip_blank() + 1
        try:
            for title, sequence, qualities in FastqGeneralIterator(cast(TextIO, lines)):
                if NO_QUALITY.search(qualities):
                    raise ValueError("a byte among its qualities that is none")
                yield record_of(title, letters_of(sequence).letters, line)
                lines.num_left = sources.LONGEST_RECORD
                line = lines.number  # the parser has read on to the next title
        except ValueError as error:
            raise BadInput(
                f"{source}, line {line}: not FASTQ ({str(error).rstrip('.')}).",
                remedy="Mend the record that begins there, or copy the file again.",
            ) from error


class _Lines:
    """Lines as the parser wants them, counted."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._waiting: list[str] = []
        self.number = 0
        """Of the line that was read last, from 1."""
        self.num_left = sources.LONGEST_RECORD
        """Letters and qualities that the record at hand may still have."""

    def skip_blank(self) -> int:
        """Pass over blank lines; how many they were."""
        while (line := self._text.readline(self.num_left)) and not line.strip():
            self.number += 1
        self._waiting = [line]
        return self.number

    def read(self, size: int) -> str:
        """Nothing: so the parser asks whether this is text."""
        return ""

    def readline(self) -> str:
        line = self._waiting.pop() if self._waiting else self._text.readline(self.num_left)
        self.num_left -= len(line)
        if self.num_left <= 0:
            raise ValueError(f"a record longer than {sources.LONGEST_RECORD:,} bytes")
        self.number += bool(line)
        return line

    def __iter__(self) -> Iterator[str]:
        return iter(self.readline, "")
