"""Blocks of records as columns: the kernel parses what is usual, Biopython the records that are not."""

# N = records of a block

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hpc_embed.sequences import kernel
from hpc_embed.sequences.fasta import FastaRecord, Noticed, parse_lines
from hpc_embed.sequences.kernel import Bytes, Ints
from hpc_embed.sequences.places import Place
from hpc_embed.sequences.sources import BYTE_ORDER_MARK, RECORD_START, Raw

BLANK_LINES = re.compile(rb"(?:[ \t\x0b\x0c\x1c-\x1f]*\r?\n)*")
SEPARATORS = re.compile(rb"\r\n|\r|\n")


class Block(NamedTuple):
    """Some records of a source, one after the other."""

    descriptions: pa.StringArray
    ids: pa.StringArray
    lines_N: Ints
    """Lines of the headers, counted from 0 at the start of the block."""
    letters: Bytes
    """As written, without white space, all records side by side."""
    lengths_N: Ints
    num_lines: int
    """Lines of the whole block."""
    num_cut: int = 0
    """Lines of which something was left out that is no sequence."""
    first_cut: int | None = None
    """The first of them, from 0."""
    fault: Place | None = None
    """The line that is no FASTA; the records are those in front."""

    @property
    def starts_N(self) -> Ints:
        """Where the letters of each record begin."""
        return np.cumsum(self.lengths_N) - self.lengths_N

    @property
    def num_bytes(self) -> int:
        return len(self.letters) + int(self.descriptions.nbytes)


def parse_block(raw: Raw, *, is_first: bool) -> Block:
    """The records of a block, up to a fault."""
    at, num_lines = _skip_blank_lines(raw) if is_first else (0, 0)
    return _joined(list(_parse(raw, at)), num_lines)


def _skip_blank_lines(raw: Raw) -> tuple[int, int]:
    start = len(BYTE_ORDER_MARK) if raw.startswith(BYTE_ORDER_MARK) else 0
    blank = BLANK_LINES.match(raw, start)
    assert blank is not None
    if raw[blank.end() : blank.end() + 1] != b">":
        return 0, 0  # for Biopython to look at
    return blank.end(), blank.group().count(b"\n")


def _parse(raw: Raw, at: int) -> Iterator[Block]:
    if not kernel.is_available() or raw[at : at + 1] != b">":
        yield _by_biopython(raw[at:])
        return
    content = np.frombuffer(raw, dtype=np.uint8)
    num_left = kernel.count_headers(content[at:])
    while at < len(raw):
        usual = kernel.parse(content[at:], num_left)
        if len(usual.lines_N):
            yield _of_usual(usual)
        at, num_left = at + usual.num_bytes, num_left - len(usual.lines_N) - 1
        if at < len(raw):
            stop = raw.find(RECORD_START, at) + 1 or len(raw)
            odd = _by_biopython(raw[at:stop])
            yield odd
            at = stop if odd.fault is None else len(raw)


def _of_usual(usual: kernel.Usual) -> Block:
    return Block(
        _strings(usual.headers, usual.header_stops_N),
        _strings(usual.ids, usual.id_stops_N),
        usual.lines_N,
        usual.letters,
        np.diff(usual.letter_stops_N, prepend=0),
        usual.num_lines,
    )


def _strings(content: Bytes, stops_N: NDArray[np.int32]) -> pa.StringArray:
    offsets = np.concatenate(([0], stops_N)).astype(np.int32)
    return pa.StringArray.from_buffers(len(stops_N), pa.py_buffer(offsets), pa.py_buffer(content))


def _by_biopython(raw: Raw) -> Block:
    noticed = Noticed()
    block = block_of_records(list(parse_lines(io.BytesIO(raw), noticed)))
    num_lines = sum(1 for _ in SEPARATORS.finditer(raw))
    return block._replace(
        num_lines=num_lines, num_cut=noticed.num_cut, first_cut=noticed.first_cut, fault=noticed.fault
    )


def block_of_records(records: list[FastaRecord], num_lines_before: int = 0) -> Block:
    """A block of parsed records, which ends at its last header; so many lines of their source are in other blocks."""
    return Block(
        pa.array([record.description for record in records], pa.string()),
        pa.array([record.id for record in records], pa.string()),
        np.array([record.line - 1 - num_lines_before for record in records], dtype=np.int64),
        np.frombuffer(bytearray(b"".join(record.sequence for record in records)), dtype=np.uint8),
        np.array([len(record.sequence) for record in records], dtype=np.int64),
        records[-1].line - num_lines_before if records else 0,
    )


def _joined(parts: list[Block], num_lines: int) -> Block:
    """One block of several, with so many lines in front."""
    moved = []
    for part in parts:
        moved.append(_moved(part, num_lines))
        num_lines += part.num_lines
    if len(moved) == 1:
        return moved[0]._replace(num_lines=num_lines)
    return Block(
        pa.concat_arrays([part.descriptions for part in moved]),
        pa.concat_arrays([part.ids for part in moved]),
        np.concatenate([part.lines_N for part in moved]),
        np.concatenate([part.letters for part in moved]),
        np.concatenate([part.lengths_N for part in moved]),
        num_lines,
        sum(part.num_cut for part in moved),
        next((part.first_cut for part in moved if part.first_cut is not None), None),
        moved[-1].fault,
    )


def _moved(block: Block, num_lines: int) -> Block:
    """A block whose lines are counted from so many lines further up."""
    return block._replace(
        lines_N=block.lines_N + num_lines,
        first_cut=None if block.first_cut is None else block.first_cut + num_lines,
        fault=block.fault and block.fault.moved(num_lines),
    )
