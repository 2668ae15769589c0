"""Pieces: what a task has finished so far, so that its next try goes on where it was.

Two live copies of one task may both leave pieces of the same windows; the first read counts.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from hpc_embed.run.files import remove_leftovers, whole_file
from hpc_embed.run.vectors import VectorFile, Vectors, VectorWriter

PATTERN = "piece-*.parquet"


class Pieces:
    """The pieces of one shard, made by runs of one fingerprint."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        self._num_published = 0
        self._metadata = {"fingerprint": fingerprint}

    def publish(self, rows: Vectors) -> None:
        """Make one more piece appear."""
        self._folder.mkdir(exist_ok=True)
        self._num_published += 1
        with (
            whole_file(self._folder / f"piece-{self._num_published:05d}-{uuid.uuid4().hex}.parquet") as temporary,
            VectorWriter(temporary, rows.vectors_ND.shape[1], self._metadata) as writer,
        ):
            writer.write(rows)

    def finished(self, dimension: int) -> set[int]:
        """Window keys that need not be done again; pieces that are damaged or foreign are removed."""
        remove_leftovers(self._folder)
        keys: set[int] = set()
        for path in self._paths():
            try:
                file = VectorFile(path)
                if file.metadata != self._metadata or file.dimension != dimension:
                    path.unlink()
                    continue
                keys.update(file.windows().tolist())
            except FileNotFoundError:
                continue  # a twin finished the shard and cleaned up
            except (OSError, pa.ArrowException, ValueError, KeyError):
                path.unlink(missing_ok=True)
        return keys

    def files(self) -> Iterator[VectorFile]:
        """Every piece; a window may be in two of them, see `each_window_once`."""
        yield from map(VectorFile, self._paths())

    def clear(self) -> None:
        """Remove all pieces."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(PATTERN))


def each_window_once(pieces: Iterable[Iterable[Vectors]]) -> Iterator[Vectors]:
    """The rows of pieces, each a number of blocks, without those of windows that an earlier piece had."""
    seen: set[int] = set()
    for piece in pieces:
        here: set[int] = set()
        for block in piece:
            keys = block.windows_N.tolist()
            new_N = np.fromiter((key not in seen for key in keys), dtype=bool, count=len(keys))
            here.update(keys)
            if new_N.any():
                yield Vectors(block.windows_N[new_N], block.num_tokens_N[new_N], block.vectors_ND[new_N])
        seen |= here


def num_windows_in_pieces(folder: Path) -> int:
    """Windows in a shard's pieces, from their keys alone; those that vanish meanwhile do not count."""
    total = 0
    for path in folder.glob(PATTERN):
        with suppress(OSError, pa.ArrowException):
            total += len(np.unique(VectorFile(path).windows()))
    return total


def seconds_of_pieces(folder: Path) -> float:
    """Seconds from the oldest to the newest piece; 0 for fewer than two."""
    times = []
    for path in folder.glob(PATTERN):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times) - min(times) if times else 0.0
