"""Where sequences come from: plain files, compressed ones, standard input; and FASTA in blocks of whole records.

A block ends in front of a `>` that begins a line, or at the end of the file. So every block can be parsed by itself,
and a plain file can be read from many places at once without parsing what comes before.
"""

from __future__ import annotations

import glob
import io
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, cast

from hpc_embed.errors import BadInput, UsageError
from hpc_embed.sequences.compression import DAMAGED, MAGIC_BYTES, DamagedZstd, compression_of, unpacked
from hpc_embed.sequences.folders import SEQUENCE_ENDINGS, files_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STANDARD_INPUT = "-"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLOCK_BYTES = 8 << 20
"""Bytes of one block; more where a single record is longer."""
LOOK_BYTES = 1 << 16
"""What is read at first to find where a record begins."""
LONGEST_RECORD = 1 << 30
"""Bytes; a record is held in memory several times over, and a small compressed file can unpack to anything."""
RECORD_START = b"\n>"

Raw = bytes | bytearray
"""A block of FASTA."""
Read = Callable[[int], bytes]
"""Reads so many bytes; fewer, or none, only at the end."""


class Stretch(NamedTuple):
    """Bytes of a plain file in which records may begin."""

    start: int
    stop: int


def expand_inputs(patterns: Iterable[str], endings: Sequence[str] = SEQUENCE_ENDINGS) -> list[str]:
    """Files that the arguments name, globs in sorted order, of folders those with such endings, `-` for standard input.

    Raises UsageError for none at all, or the same file twice, and BadInput for one that is not there.
    """
    sources: list[str] = []
    for pattern in patterns:
        matches = (
            [pattern] if pattern == STANDARD_INPUT or Path(pattern).exists() else sorted(glob.glob(pattern))  # noqa: PTH207
        )
        if not matches:
            raise BadInput(f"{pattern}: no such file.", remedy="Check the path, or quote the glob.")
        for match in matches:
            is_folder = match != STANDARD_INPUT and Path(match).is_dir()
            sources += files_of(match, endings) if is_folder else [match]
    if not sources:
        raise UsageError(
            "no FASTA given.", remedy="Name files on the command line, or set fasta: [...] in hpc-embed.yaml."
        )
    seen: set[str] = set()
    for source in sources:
        if source in seen:
            raise UsageError(f"{source} is given twice.", remedy="Name each file once.")
        seen.add(source)
    return sources


@contextmanager
def opened(source: str) -> Iterator[BinaryIO]:
    """The bytes of a source, unpacked where they are compressed; BadInput where it cannot be opened."""
    with ExitStack() as stack:
        try:
            raw = sys.stdin.buffer if source == STANDARD_INPUT else stack.enter_context(Path(source).open("rb"))
        except OSError as error:
            raise BadInput(
                f"{source}: cannot be opened ({error.strerror}).", remedy="Check path and permissions."
            ) from error
        with reading(source):
            compression = compression_of(cast("_Peekable", raw).peek(MAGIC_BYTES))
        yield cast(BinaryIO, raw) if compression is None else unpacked(cast(BinaryIO, raw), compression, stack)


class _Peekable(Protocol):
    def peek(self, size: int, /) -> bytes: ...


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turn faults of reading into BadInput."""
    try:
        yield
    except DAMAGED as error:
        name = "zstd" if isinstance(error, DamagedZstd) else "gzip"
        raise BadInput(
            f"{source}: the {name} data is damaged or cut short ({error}).", remedy="Copy the file again."
        ) from error
    except OSError as error:
        raise BadInput(f"{source}: cannot be read ({error.strerror}).", remedy="Check the file.") from error


def is_plain_file(source: str) -> bool:
    """True where it can be read from many places at once."""
    if source == STANDARD_INPUT or not Path(source).is_file():
        return False
    with Path(source).open("rb") as file, reading(source):
        return compression_of(file.read(MAGIC_BYTES)) is None


def reader(source: str, file: BinaryIO) -> Read:
    """A function that reads so many bytes of a source, however little a pipe gives at a time."""

    def read(size: int) -> bytes:
        with reading(source):
            content = file.read(size)
            while 0 < len(content) < size and (more := file.read(size - len(content))):
                content += more
            return content

    return read


def stream_of(read: Read) -> BinaryIO:
    """What is read, as a file."""
    return cast(BinaryIO, io.BufferedReader(_Stream(read), buffer_size=1 << 20))


class _Stream(io.RawIOBase):
    def __init__(self, read: Read) -> None:
        self._read = read
        self._waiting = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        if not self._waiting:
            self._waiting = memoryview(self._read(len(view)))
        size = min(len(view), len(self._waiting))
        view[:size], self._waiting = self._waiting[:size], self._waiting[size:]
        return size


def blocks_within(source: str, file: BinaryIO, stretch: Stretch) -> Generator[bytes, None, None]:
    """The records that begin in a stretch, whole also where the last goes beyond it, in blocks of whole records.

    BadInput as of `blocks_of`.
    """
    at = _next_record(file, source, stretch.start, stretch.stop)
    while at < stretch.stop:
        last = min(at + BLOCK_BYTES, stretch.stop)
        stop = _next_record(file, source, last, last + LONGEST_RECORD)
        file.seek(at)
        block = reader(source, file)(stop - at)
        if not block:
            return  # someone has made the file shorter
        _refuse_longer(block, block.rfind(RECORD_START) + 1, source)
        yield block
        at = stop


def _next_record(file: BinaryIO, source: str, at: int, limit: int) -> int:
    """Where the first record at or after `at` begins; the limit, or the end of the file, where none does."""
    if at == 0:
        return 0
    file.seek(at - 1)
    read, size = reader(source, file), LOOK_BYTES
    place, tail = at - 1, b""
    while place < limit and (content := tail + read(size)) != tail:
        found = content.find(RECORD_START)
        if found >= 0:
            return min(place + found + 1, limit)
        tail = content[-1:]
        place += len(content) - 1
        size = min(2 * size, BLOCK_BYTES)
    return min(place + len(tail), limit)


def blocks_of(read: Read, source: str) -> Generator[bytearray, None, None]:
    """Cut what is read into blocks of whole records; BadInput where one is beyond LONGEST_RECORD."""
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
        else:
            _refuse_longer(block, 0, source)
    if block:
        yield block


def _refuse_longer(block: Raw, start: int, source: str) -> None:
    """Raise BadInput where the record that begins at `start` is too long."""
    if len(block) - start > LONGEST_RECORD:
        beginning = bytes(block[start : start + 60].splitlines()[0])
        raise BadInput(
            f"{source}: the record that begins with {beginning!r} is longer than {LONGEST_RECORD:,} bytes.",
            remedy="Cut it into pieces, or look whether this is the right file.",
        )
