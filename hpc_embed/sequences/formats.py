"""FASTA, FASTQ or a table: what a source holds, and its records in pieces, for all that comes behind to be the same."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import Literal

from hpc_embed.errors import BadInput
from hpc_embed.sequences import sources
from hpc_embed.sequences.blocks import Block, block_of_records, parse_block
from hpc_embed.sequences.fasta import FastaRecord
from hpc_embed.sequences.fastq import parse_fastq
from hpc_embed.sequences.signatures import signature_of
from hpc_embed.sequences.sources import BYTE_ORDER_MARK, Raw, blocks_of
from hpc_embed.sequences.streams import Read, stream_of
from hpc_embed.sequences.tables import Columns, parse_table

Format = Literal["FASTA", "FASTQ", "table"]
Piece = Raw | Block
"""Some records of a source: FASTA as its bytes, which any thread may parse, else already a block."""


def format_of(head: bytes, columns: Columns | None) -> Format:
    """What a source that begins so holds; a table only where its columns were named."""
    if columns is not None:
        return "table"
    return "FASTQ" if head.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"@") else "FASTA"


def refuse_others(head: bytes, source: str, columns: Columns | None) -> None:
    """Raise BadInput, naming what it is, for a source that begins as one of the formats that are not read."""
    head = head.removeprefix(BYTE_ORDER_MARK)
    if found := signature_of(head, is_text=columns is None):
        raise BadInput(f"{source}: {found.name}; FASTA, FASTQ and tables are read.", remedy=found.remedy)


def pieces_of(read: Read, source: str, format: Format, columns: Columns | None) -> Generator[Piece, None, None]:
    """All of a source, in order; to be closed before its file is."""
    if format == "FASTA":
        return blocks_of(read, source)
    return _blocks_of_records(_records(read, source, format, columns))


def size_of(piece: Piece) -> int:
    """Bytes of a piece, in some measure that a source gives every time."""
    return piece.num_bytes if isinstance(piece, Block) else len(piece)


def first_records(head: bytes, source: str, columns: Columns | None, most: int, *, is_cut: bool) -> Block:
    """The first records in the head of a source; of one that is cut out of it what can be read."""
    format = format_of(head, columns)
    if format == "FASTA":
        return parse_block(head, is_first=True)
    found: list[FastaRecord] = []
    waiting = [head]
    try:
        for record in islice(_records(lambda _: waiting.pop() if waiting else b"", source, format, columns), most):
            found.append(record)
    except BadInput:
        if not is_cut:
            raise
    return block_of_records(found)


def _records(read: Read, source: str, format: Format, columns: Columns | None) -> Iterator[FastaRecord]:
    if columns is not None:
        return parse_table(stream_of(read), source, columns)
    assert format == "FASTQ"
    return parse_fastq(stream_of(read), source)


def _blocks_of_records(records: Iterable[FastaRecord]) -> Generator[Block, None, None]:
    waiting: list[FastaRecord] = []
    num_bytes = num_lines = 0
    for record in records:
        waiting.append(record)
        num_bytes += len(record.sequence) + len(record.description)
        if num_bytes >= sources.BLOCK_BYTES:
            yield block_of_records(waiting, num_lines)
            waiting, num_bytes, num_lines = [], 0, record.line
    if waiting:
        yield block_of_records(waiting, num_lines)
