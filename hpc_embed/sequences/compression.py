"""Compressed sources, known by their first bytes: gzip, bgzip among it, and zstd, to their last member or frame."""

from __future__ import annotations

import gzip
import io
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

Compression = Literal["gzip", "zstd"]

MAGIC_BYTES = 4
"""As many of a source tell whether it is compressed."""
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
"""After a byte from 0x50 to 0x5f: a frame without content, with which some programs begin."""
DAMAGED_GZIP: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
if isal_zlib is not None:
    DAMAGED_GZIP = (*DAMAGED_GZIP, cast("type[Exception]", isal_zlib.error))


class DamagedZstd(Exception):
    """The data is not whole."""


DAMAGED: tuple[type[Exception], ...] = (*DAMAGED_GZIP, DamagedZstd)


def compression_of(head: bytes) -> Compression | None:
    """How a source that begins so is compressed."""
    if head[:2] == GZIP_MAGIC:
        return "gzip"
    is_skippable = head[1:4] == ZSTD_SKIPPABLE and head[0] >> 4 == 5
    return "zstd" if head[:4] == ZSTD_MAGIC or is_skippable else None


def unpacked(raw: BinaryIO, compression: Compression, stack: ExitStack) -> BinaryIO:
    """The content of a compressed file; damage is an error of DAMAGED_GZIP, or DamagedZstd."""
    if compression == "zstd":
        return stack.enter_context(io.BufferedReader(_Zstd(raw), buffer_size=1 << 20))
    if igzip_threaded is None:
        return cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=raw)))
    return cast(BinaryIO, stack.enter_context(igzip_threaded.open(raw, "rb", threads=1)))


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
            raise DamagedZstd(error) from error
        view[: len(content)] = content
        return len(content)
