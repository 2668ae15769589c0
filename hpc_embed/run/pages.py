"""Where the numbers of a column chunk lie in their file, so that a vector is read without its row group."""

from __future__ import annotations

from typing import BinaryIO

import pyarrow.parquet as pq

NONE = -1
LONGEST_HEADER = 512
LENGTH_BYTES = 4


def first_byte(file: BinaryIO, chunk: pq.ColumnChunkMetaData, num_bytes: int) -> int:
    """Where `num_bytes` of plain numbers begin that end the chunk; -1 where they are not side by side.

    A page that is neither compressed nor of a dictionary is a header, repetition and definition levels with the
    length of each in four bytes before it, and the numbers. Where behind a header of some size these lengths lead
    to just so many bytes before the end of the chunk, all numbers are in this page: another would have a header too.
    """
    if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page or not {*chunk.encodings} <= {"RLE", "PLAIN"}:
        return NONE
    begin = chunk.data_page_offset
    first: int = begin + chunk.total_compressed_size - num_bytes
    head = _read(file, begin, min(LONGEST_HEADER, first - begin))
    for size in range(len(head) - LENGTH_BYTES):
        definition = begin + size + LENGTH_BYTES + _length(head[size:])
        if definition + LENGTH_BYTES > first:
            continue
        if definition + LENGTH_BYTES + _length(_read(file, definition, LENGTH_BYTES)) == first:
            return first
    return NONE


def _length(content: bytes) -> int:
    return int.from_bytes(content[:LENGTH_BYTES], "little")


def _read(file: BinaryIO, place: int, num_bytes: int) -> bytes:
    file.seek(place)
    return file.read(max(num_bytes, 0))
