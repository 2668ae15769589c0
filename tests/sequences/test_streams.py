"""Reading on, however little comes at a time."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from hpc_embed.errors import BadInput
from hpc_embed.sequences.streams import after, reader, stream_of


class Drops(io.BytesIO):
    """Gives so many bytes at a time."""

    def __init__(self, content: bytes, size: int) -> None:
        super().__init__(content)
        self._most = size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, self._most))


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_reader_gives_what_is_asked_for_up_to_the_end(size: int) -> None:
    read = reader("x", Drops(b"MKVLAAGIVG", size))
    assert [read(4), read(4), read(4), read(4)] == [b"MKVL", b"AAGI", b"VG", b""]


def test_a_fault_of_reading_names_the_source() -> None:
    words = r"in here: cannot be read \(Input/output error\)"
    with Path("/proc/self/mem").open("rb") as file, pytest.raises(BadInput, match=words):
        reader("in here", file)(1)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_stream_begins_with_the_head_and_goes_on(size: int) -> None:
    content = io.BytesIO(b"AAGIVG")
    stream = stream_of(after(b"MKVL", content.read))
    found = b""
    while part := stream.read(size):
        found += part
    assert found == b"MKVLAAGIVG"
