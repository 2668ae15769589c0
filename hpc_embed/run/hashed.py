"""Digests: of what is written while it is written, and of what was read.

They are against storage that lies, not against people: a flipped bit, a lost page, the file of another run.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any, BinaryIO

DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{64})\.[a-z]+$")


class Hashed(io.RawIOBase):
    """A file that is written from its begin to its end, and the SHA-256 of what went into it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest, self.num_bytes = hashlib.sha256(), 0

    @property
    def sha256(self) -> str:
        """Hexadecimal, of what was written so far."""
        return self._digest.hexdigest()

    @property
    def name(self) -> str:
        """Where it is written."""
        return str(self._file.name)

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._digest.update(content)
        self.num_bytes += memoryview(content).nbytes
        self._file.write(content)
        return memoryview(content).nbytes


def named_by(digest: str, path: Path) -> Path:
    """`piece-00001.parquet` with the digest of its content before the ending."""
    return path.with_name(f"{path.stem}-{digest}{path.suffix}")


def digest_in_name(path: Path) -> str | None:
    """What a file's name says of its content; None where it says nothing."""
    match = DIGEST_IN_NAME.search(path.name)
    return match[1] if match else None
