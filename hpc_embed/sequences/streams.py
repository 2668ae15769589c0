"""What is read of a source, as a function and as a file, with faults of reading told by the name of the source."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from hpc_embed.errors import BadInput
from hpc_embed.sequences.compression import DAMAGED, name_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Read = Callable[[int], bytes]
"""Reads so many bytes; fewer, or none, only at the end."""


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turn faults of reading into BadInput."""
    try:
        yield
    except DAMAGED as error:
        raise BadInput(
            f"{source}: the {name_of(error)} data is damaged or cut short ({error}).", remedy="Copy the file again."
        ) from error
    except InterruptedError:
        raise  # another thread ended the scan
    except OSError as error:
        raise BadInput(f"{source}: cannot be read ({error.strerror}).", remedy="Check the file.") from error


def reader(source: str, file: BinaryIO) -> Read:
    """A function that reads so many bytes of a source, however little a pipe gives at a time."""

    def read(size: int) -> bytes:
        with reading(source):
            content = file.read(size)
            while 0 < len(content) < size and (more := file.read(size - len(content))):
                content += more
            return content

    return read


def after(head: bytes, read: Read) -> Read:
    """What gives the head first, whatever its size."""
    waiting = [head]

    def read_both(size: int) -> bytes:
        return waiting.pop() if waiting else read(size)

    return read_both


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
