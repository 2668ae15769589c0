"""Where sequences come from: plain files, compressed ones, standard input; and FASTA in blocks of whole records.

A block ends in front of a `>` that begins a line, or at the end of the file. So every block can be parsed by itself,
and a plain file can be read from many places at once without parsing what comes before.
"""

from __future__ import annotations

import glob
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, cast

from hpc_embed.errors import BadInput, UsageError
from hpc_embed.screen import is_utf8
from hpc_embed.sequences.compression import MAGIC_BYTES, compression_of, unpacked
from hpc_embed.sequences.folders import SEQUENCE_ENDINGS, files_of
from hpc_embed.sequences.pipes import STANDARD_INPUT, Pipe, is_read_once, open_pipes
from hpc_embed.sequences.streams import Read, reader, reading

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
        if not is_utf8(source):
            raise BadInput(f"{source}: a name that is not UTF-8.", remedy="Rename it, or link to it by another name.")
        if source in seen:
            raise UsageError(f"{source} is given twice.", remedy="Name each file once.")
        seen.add(source)
    return sources


@contextmanager
def opened(source: str, pipe: Pipe | None = None) -> Iterator[BinaryIO]:
    """The bytes of a source, unpacked where they are compressed; BadInput where it cannot be opened.

    One that can be read only once goes on where it is open already.
    """
    with ExitStack() as stack:
        if pipe is None:
            pipe = open_pipes([source], stack).get(source)
        raw = stack.enter_context(_opened_file(source)) if pipe is None else pipe.content
        with reading(source):
            compression = compression_of(cast("_Peekable", raw).peek(MAGIC_BYTES))
        yield raw if compression is None else unpacked(raw, compression, stack)


def _opened_file(source: str) -> BinaryIO:
    try:
        return Path(source).open("rb")
    except OSError as error:
        raise BadInput(
            f"{source}: cannot be opened ({error.strerror}).", remedy="Check path and permissions."
        ) from error


class _Peekable(Protocol):
    def peek(self, size: int, /) -> bytes: ...


class Seen(NamedTuple):
    """A file as it was when it was looked at."""

    num_bytes: int
    modified_ns: int


def look_at(source: str) -> Seen:
    """How large a file is and when it was written; BadInput where it is gone."""
    with reading(source):
        facts = Path(source).stat()
    return Seen(facts.st_size, facts.st_mtime_ns)


def refuse_changed(source: str, seen: Seen) -> None:
    """Raise BadInput where a file is no longer as it was: its records may be of two minds, or half of them missing."""
    if look_at(source) != seen:
        raise _changed(source)


def refuse_more(source: str, file: BinaryIO, stop: int) -> None:
    """Raise BadInput where a file goes on behind its end, as another node's size of it may have been an old one."""
    file.seek(stop)
    if reader(source, file)(1):
        raise _changed(source)


def _changed(source: str) -> BadInput:
    return BadInput(f"{source}: changed while it was read.", remedy="Wait until it is written, and plan again.")


def is_plain_file(source: str) -> bool:
    """True where it can be read from many places at once."""
    if is_read_once(source):
        return False
    with Path(source).open("rb") as file, reading(source):
        return compression_of(file.read(MAGIC_BYTES)) is None


def blocks_within(source: str, file: BinaryIO, stretch: Stretch) -> Generator[bytes, None, None]:
    """The records that begin in a stretch, whole also where the last goes beyond it, in blocks of whole records.

    BadInput as of `blocks_of`, and where the file has become shorter.
    """
    at = _next_record(file, source, stretch.start, stretch.stop)
    while at < stretch.stop:
        last = min(at + BLOCK_BYTES, stretch.stop)
        stop = _next_record(file, source, last, last + LONGEST_RECORD)
        file.seek(at)
        block = reader(source, file)(stop - at)
        if len(block) < max(1, stop - at):
            raise _changed(source)
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
