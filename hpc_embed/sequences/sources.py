"""Where FASTA comes from: plain files, gzip, standard input; and the bytes in blocks of whole records.

A block ends in front of a `>` that begins a line, or at the end of the file. So every block can be parsed by itself,
and a plain file can be read from many places at once without parsing what comes before.
"""

from __future__ import annotations

import glob
import gzip
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, cast

from hpc_embed.errors import BadInput, UsageError

try:
    from isal import igzip_threaded, isal_zlib  # twice to three times as fast as zlib, in a thread of its own
except ImportError:
    igzip_threaded = isal_zlib = None  # type: ignore[assignment, unused-ignore]

STANDARD_INPUT = "-"
GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLOCK_BYTES = 8 << 20
"""Bytes of one block; more where a single record is longer."""
RECORD_START = b"\n>"
BAD_GZIP: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
if isal_zlib is not None:
    BAD_GZIP = (*BAD_GZIP, cast("type[Exception]", isal_zlib.error))

Read = Callable[[int], bytes]
"""Reads so many bytes; fewer, or none, only at the end."""


class Stretch(NamedTuple):
    """Bytes of a plain file in which records may begin."""

    start: int
    stop: int


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
    seen: set[str] = set()
    for source in sources:
        if source in seen:
            raise UsageError(f"{source} is given twice.", remedy="Name each file once.")
        seen.add(source)
        if source != STANDARD_INPUT and Path(source).is_dir():
            raise BadInput(f"{source} is a folder.", remedy=f"Give its files: '{source}/*.fasta'.")
    return sources


@contextmanager
def opened(source: str) -> Iterator[BinaryIO]:
    """The bytes of a source, unpacked where they are gzip; BadInput where it cannot be opened."""
    with ExitStack() as stack:
        try:
            raw = sys.stdin.buffer if source == STANDARD_INPUT else stack.enter_context(Path(source).open("rb"))
        except OSError as error:
            raise BadInput(
                f"{source}: cannot be opened ({error.strerror}).", remedy="Check path and permissions."
            ) from error
        with reading(source):
            is_gzip = cast("_Peekable", raw).peek(2)[:2] == GZIP_MAGIC
        if not is_gzip:
            yield cast(BinaryIO, raw)
        elif igzip_threaded is None:
            yield cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=raw)))
        else:
            yield stack.enter_context(igzip_threaded.open(raw, "rb", threads=1))


class _Peekable(Protocol):
    def peek(self, size: int, /) -> bytes: ...


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turn faults of reading into BadInput."""
    try:
        yield
    except BAD_GZIP as error:
        raise BadInput(
            f"{source}: the gzip data is damaged or cut short ({error}).", remedy="Copy the file again."
        ) from error
    except OSError as error:
        raise BadInput(f"{source}: cannot be read ({error.strerror}).", remedy="Check the file.") from error


def is_plain_file(source: str) -> bool:
    """True where it can be read from many places at once."""
    if source == STANDARD_INPUT or not Path(source).is_file():
        return False
    with Path(source).open("rb") as file, reading(source):
        return file.read(2) != GZIP_MAGIC


def reader(source: str, file: BinaryIO) -> Read:
    """A function that reads so many bytes of a source, however little a pipe gives at a time."""

    def read(size: int) -> bytes:
        with reading(source):
            content = file.read(size)
            while 0 < len(content) < size and (more := file.read(size - len(content))):
                content += more
            return content

    return read


def stretch_reader(source: str, file: BinaryIO, stretch: Stretch) -> Read:
    """Reads the records that begin in a stretch, whole also where the last goes beyond it."""
    read_on = reader(source, file)
    start = _next_record(file, read_on, stretch.start, stretch.stop)
    stop = _next_record(file, read_on, stretch.stop, None) if start < stretch.stop else start
    file.seek(start)
    left = stop - start

    def read(size: int) -> bytes:
        nonlocal left
        content = read_on(min(size, left))
        left -= len(content)
        return content

    return read


def _next_record(file: BinaryIO, read: Read, at: int, limit: int | None) -> int:
    """Where the first record at or after `at` begins; the limit, or the end of the file, where none does."""
    if at == 0:
        return 0
    file.seek(at - 1)
    place, tail = at - 1, b""
    while (limit is None or place < limit) and (content := tail + read(BLOCK_BYTES)) != tail:
        found = content.find(RECORD_START)
        if found >= 0:
            return place + found + 1 if limit is None else min(place + found + 1, limit)
        tail = content[-1:]
        place += len(content) - 1
    return place + len(tail) if limit is None else limit


def blocks_of(read: Read) -> Iterator[bytearray]:
    """Cut what is read into blocks of whole records."""
    block = bytearray()
    while content := read(BLOCK_BYTES):
        searched = max(0, len(block) - 1)
        block += content
        cut = block.rfind(RECORD_START, searched) + 1
        if cut:
            rest = block[cut:]
            del block[cut:]
            yield block
            block = rest
    if block:
        yield block
