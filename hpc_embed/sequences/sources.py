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


def blocks_within(source: str, file: BinaryIO, stretch: Stretch, block: bytearray) -> Generator[bytearray, None, None]:
    """The records that begin in a stretch, whole also where the last goes beyond it, in blocks of whole records.

    Each of them is `block`, and used up when the next is asked for. BadInput as of `blocks_of`.
    """
    at = _next_record(file, source, stretch.start, stretch.stop)
    stop = _next_record(file, source, stretch.stop, None) if at < stretch.stop else at
    size = BLOCK_BYTES
    while at < stop:
        size = min(size, stop - at)
        file.seek(at)
        _fill(block, size, file, source)
        if len(block) < size:  # someone has made the file shorter
            stop = at + len(block)
        cut = block.rfind(RECORD_START) + 1
        if not cut:
            _refuse_longer(block, source)
        if at + len(block) < stop:
            if not cut:
                size *= 2
                continue
            del block[cut:]
        if block:
            at, size = at + len(block), BLOCK_BYTES
            yield block


def _fill(block: bytearray, size: int, file: BinaryIO, source: str) -> None:
    """Read so many bytes into a block, fewer where the file ends; its memory is used again."""
    del block[size:]
    block.extend(bytes(size - len(block)))
    num_read = 0
    with reading(source), memoryview(block) as view:
        while num_read < size and (more := cast(io.BufferedReader, file).readinto(view[num_read:])):
            num_read += more
    del block[num_read:]


def _next_record(file: BinaryIO, source: str, at: int, limit: int | None) -> int:
    """Where the first record at or after `at` begins; the limit, or the end of the file, where none does."""
    if at == 0:
        return 0
    file.seek(at - 1)
    read, size = reader(source, file), LOOK_BYTES
    place, tail = at - 1, b""
    while (limit is None or place < limit) and (content := tail + read(size)) != tail:
        found = content.find(RECORD_START)
        if found >= 0:
            return place + found + 1 if limit is None else min(place + found + 1, limit)
        tail = content[-1:]
        place += len(content) - 1
        size = min(2 * size, BLOCK_BYTES)
    return place + len(tail) if limit is None else limit


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
            _refuse_longer(block, source)
    if block:
        yield block


def _refuse_longer(block: bytearray, source: str) -> None:
    if len(block) > LONGEST_RECORD:
        raise BadInput(
            f"{source}: the record that begins with {bytes(block[:60].splitlines()[0])!r} is longer than "
            f"{LONGEST_RECORD:,} bytes.",
            remedy="Cut it into pieces, or look whether this is the right file.",
        )
