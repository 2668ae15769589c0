"""Tables by the csv module: a header, then a sequence a row, with tabs, commas or semicolons between."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO, NamedTuple, TextIO

from hpc_embed.errors import BadInput
from hpc_embed.sequences import sources
from hpc_embed.sequences.fasta import FastaRecord, record_of, text_of
from hpc_embed.sequences.lines import NotSequence, letters_of

DELIMITERS = "\t,;"
USUAL_ID = "id"


class Columns(NamedTuple):
    """The columns that are read, by their names in the header."""

    sequence: str
    id: str | None = None
    """None is `id`, or else the first other column, or else rows by number."""


def parse_table(binary: BinaryIO, source: str, columns: Columns) -> Iterator[FastaRecord]:
    """The rows of a table; BadInput, with line, for a column that is not there and for a row of another width."""
    csv.field_size_limit(sources.LONGEST_RECORD)  # nor may an unclosed quote take the rest of a large file
    with text_of(binary, newline="") as text:
        lines, line = _lines(text), 1
        try:
            header_line = next(lines, "")
            delimiter = max(DELIMITERS, key=header_line.count)
            rows = csv.reader(chain([header_line], lines), delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(rows, [])]
            sequence_at, id_at = _place_of_sequence(header, columns, source), _place_of_id(header, columns, source)
            number, line = 1, rows.line_num + 1
            for row in rows:
                if row and len(row) != len(header):
                    raise BadInput(
                        f"{source}, line {line}: {len(row)} cells, and the header has {len(header)}.",
                        remedy="Mend the row; a cell with the delimiter or a line end in it needs quotes.",
                    )
                if row:  # a blank line is none
                    name = str(number) if id_at is None else row[id_at]
                    letters = "".join(letters_of(part).letters for part in row[sequence_at].splitlines())
                    yield record_of(" ".join(name.split()), letters, line, is_id=True)
                number, line = number + bool(row), rows.line_num + 1
        except NotSequence as error:
            raise BadInput(f"{source}, line {line}: {error}.", remedy=error.remedy) from error
        except csv.Error as error:
            raise BadInput(f"{source}, line {line}: not a table ({error}).", remedy="Mend the row.") from error


def _lines(text: TextIO) -> Iterator[str]:
    while line := text.readline(sources.LONGEST_RECORD):
        if len(line) == sources.LONGEST_RECORD:
            raise csv.Error(f"a line longer than {sources.LONGEST_RECORD:,} bytes")
        yield line


def _place_of_sequence(header: list[str], columns: Columns, source: str) -> int:
    return _place(header, columns.sequence, "--sequence-column", source)


def _place_of_id(header: list[str], columns: Columns, source: str) -> int | None:
    if columns.id is not None:
        return _place(header, columns.id, "--id-column", source)
    others = [name for name in header if name != columns.sequence]
    return header.index(USUAL_ID if USUAL_ID in others else others[0]) if others else None


def _place(header: list[str], name: str, flag: str, source: str) -> int:
    if name not in header:
        raise BadInput(
            f"{source}: no column {name!r} in its header.",
            remedy=f"Give {flag} one of: {', '.join(header)[:1000] or 'none, the file is empty'}.",
        )
    return header.index(name)
