"""Compressed sources, known by their first bytes: gzip (bgzip among it), zstd, bzip2, xz, to their last member."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

import pyarrow as pa

try:
    from isal import igzip_threaded, isal_zlib  # twice to three times as fast as zlib, in a thread of its own
except ImportError:
    igzip_threaded = isal_zlib = None  # type: ignore[assignment, unused-ignore]

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Compression = Literal["gzip", "zstd", "bzip2", "xz"]

MAGIC_BYTES = 6
"""As many of a source tell whether it is compressed."""
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
"""After a byte from 0x50 to 0x5f: a frame without content, with which some programs begin."""
BZIP2_MAGIC = b"BZh"
XZ_MAGIC = b"\xfd7zXZ\0"
XZ_PADDING = b"\0"
"""May stand between streams and behind the last."""
PACKED_BYTES = 1 << 18
DAMAGED_GZIP: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
if isal_zlib is not None:
    DAMAGED_GZIP = (*DAMAGED_GZIP, cast("type[Exception]", isal_zlib.error))


class Damaged(Exception):
    """The data is not whole; knows of which compression."""

    def __init__(self, compression: Compression, reason: object) -> None:
        super().__init__(reason)
        self.compression = compression


DAMAGED: tuple[type[Exception], ...] = (*DAMAGED_GZIP, Damaged)


def name_of(error: Exception) -> str:
    """The compression whose data is damaged, by an error of DAMAGED."""
    return error.compression if isinstance(error, Damaged) else "gzip"


def compression_of(head: bytes) -> Compression | None:
    """How a source that begins so is compressed."""
    if head[:2] == GZIP_MAGIC:
        return "gzip"
    if head[:3] == BZIP2_MAGIC and head[3:4] in b"123456789" and head[4:5] in (b"1", b"\x17"):
        return "bzip2"
    if head[:6] == XZ_MAGIC:
        return "xz"
    is_skippable = head[1:4] == ZSTD_SKIPPABLE and head[0] >> 4 == 5
    return "zstd" if head[:4] == ZSTD_MAGIC or is_skippable else None


def unpacked(raw: BinaryIO, compression: Compression, stack: ExitStack) -> BinaryIO:
    """The content of a compressed file; damage is an error of DAMAGED."""
    if compression == "gzip":
        if igzip_threaded is None:
            return cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=raw)))
        return cast(BinaryIO, stack.enter_context(igzip_threaded.open(raw, "rb", threads=1)))
    content = _Zstd(raw) if compression == "zstd" else _Streams(raw, compression)
    return stack.enter_context(io.BufferedReader(content, buffer_size=1 << 20))


class _Streams(io.RawIOBase):
    """bzip2 or xz, stream after stream. Python's own files take damage behind the first for the end."""

    def __init__(self, raw: BinaryIO, compression: Compression) -> None:
        self._raw = raw
        self._compression: Compression = compression
        self._begin = bz2.BZ2Decompressor if compression == "bzip2" else lzma.LZMADecompressor
        self._stream = self._begin()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        content = b""
        while not content and (packed := self._packed()) is not None:
            content = self._unpack(packed, len(view))
        view[: len(content)] = content
        return len(content)

    def _packed(self) -> bytes | None:
        """What to unpack next; None at the end of the file."""
        if self._stream.eof:
            packed = self._stream.unused_data or self._raw.read(PACKED_BYTES)
            while self._compression == "xz" and packed.startswith(XZ_PADDING):
                packed = packed.lstrip(XZ_PADDING) or self._raw.read(PACKED_BYTES)
            if not packed:
                return None
            self._stream = self._begin()
            return packed
        if not self._stream.needs_input:
            return b""
        packed = self._raw.read(PACKED_BYTES)
        if not packed:
            raise Damaged(self._compression, "its end is missing")
        return packed

    def _unpack(self, packed: bytes, size: int) -> bytes:
        try:
            return self._stream.decompress(packed, size)
        except (OSError, ValueError, lzma.LZMAError) as error:
            raise Damaged(self._compression, error) from error


class _Zstd(io.RawIOBase):
    """Arrow's zstd, which goes on from frame to frame."""

    def __init__(self, raw: BinaryIO) -> None:
        self._stream = pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        try:
            content = self._stream.read(len(view))
        except OSError as error:
            if error.errno is not None:  # of the file, not of what is in it
                raise
            raise Damaged("zstd", error) from error
        view[: len(content)] = content
        return len(content)
