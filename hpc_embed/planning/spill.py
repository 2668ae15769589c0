"""Rows in buckets, each of which fits in memory though all of them may not."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hpc_embed.errors import EnvironmentFault

Rows = NDArray[Any]
Bucketed = list[tuple[int, Rows]]
"""Buckets and the rows that go to each."""

FEWEST_BUCKETS, LEAST_ROWS = 16, 1 << 12
"""There are as many buckets as this where each gets so many rows."""


class Spill:
    """Rows of one type in numbered buckets; those that wait in memory go to a file each once they are many."""

    def __init__(
        self,
        folder: Path,
        name: str,
        dtype: np.dtype[Any],
        num_buckets: int,
        memory_bytes: int,
        threads: Executor | None = None,
    ) -> None:
        """Given threads, which must never wait for a spill, several files are written at a time."""
        self.num_buckets = num_buckets
        self._folder = folder
        self._name = name
        self._dtype = dtype
        self._memory_bytes = memory_bytes
        self._threads = threads
        self._waiting: list[list[Rows]] = [[] for _ in range(num_buckets)]
        self._num_waiting_bytes = 0
        for bucket in range(num_buckets):
            self._path(bucket).unlink(missing_ok=True)  # of a try that was interrupted

    def add(self, bucketed: Bucketed) -> None:
        """Add rows to their buckets, which keep them in order."""
        for bucket, rows in bucketed:
            self.append(bucket, rows)
        self.relieve()

    def append(self, bucket: int, rows_N: Rows) -> None:
        """Add rows to one bucket; see `relieve`."""
        self._waiting[bucket].append(rows_N)
        self._num_waiting_bytes += rows_N.nbytes

    def relieve(self) -> None:
        """Write what waits in memory where it has become too much."""
        if self._num_waiting_bytes > self._memory_bytes:
            for _ in (self._threads.map if self._threads else map)(self._write, range(self.num_buckets)):
                pass
            self._num_waiting_bytes = 0

    def take(self, bucket: int) -> Rows:
        """All rows of a bucket, which are then gone."""
        path, waiting = self._path(bucket), self._waiting[bucket]
        num_written = path.stat().st_size // self._dtype.itemsize if path.exists() else 0
        rows_N = np.empty(num_written + sum(map(len, waiting)), dtype=self._dtype)
        if num_written:
            with path.open("rb") as file:
                fill(file, rows_N[:num_written])
            path.unlink()
        if waiting:
            np.concatenate(waiting, out=rows_N[num_written:])
        self._waiting[bucket] = []
        return rows_N

    def _write(self, bucket: int) -> None:
        if self._waiting[bucket]:
            with self._path(bucket).open("ab") as file:
                for rows in self._waiting[bucket]:
                    write_rows(file, rows)
            self._waiting[bucket].clear()

    def _path(self, bucket: int) -> Path:
        return self._folder / f"{self._name}-{bucket:05d}.spill"


def write_rows(file: BinaryIO, rows_N: Rows) -> None:
    """Write rows, which may raise OSError when the file is closed, too; NumPy's own way says nothing then."""
    file.write(np.ascontiguousarray(rows_N).view(np.uint8).data)


def fill(file: BinaryIO, rows_N: Rows) -> None:
    """Read the next so many rows. NumPy's own way takes a fault of the storage for the end of the file.

    Raises OSError for a fault, EnvironmentFault for a file that ends before.
    """
    if file.readinto(rows_N.view(np.uint8).data) != rows_N.nbytes:  # type: ignore[attr-defined]
        raise not_as_written(file)


def read_rows(file: BinaryIO, dtype: np.dtype[Any], number: int) -> Rows:
    """The next so many rows, as `fill` reads them."""
    rows_N = np.empty(number, dtype=dtype)
    fill(file, rows_N)
    return rows_N


def not_as_written(file: BinaryIO) -> EnvironmentFault:
    """What to raise where a file of the scratch folder lost its end, say."""
    return EnvironmentFault(
        f"{file.name}: is not as it was written.", remedy="Plan again, and check the storage of the run folder."
    )


def by_bucket(bucket_N: NDArray[np.integer], rows_N: Rows) -> Bucketed:
    """Rows, perhaps none, by the bucket that each goes to; in any thread."""
    order_N = np.argsort(bucket_N.astype(np.uint16), kind="stable")  # by radix
    sorted_N, rows_N = bucket_N[order_N], rows_N[order_N]
    buckets, starts = np.unique(sorted_N, return_index=True)
    return list(zip(buckets.tolist(), np.split(rows_N, starts[1:]), strict=True)) if len(rows_N) else []


def buckets_for(num_rows: int, rows_per_bucket: int) -> int:
    """A power of two, so that buckets can be told by the first bits of a digest; several, for the threads to share."""
    rows_per_bucket = min(rows_per_bucket, max(num_rows // FEWEST_BUCKETS, LEAST_ROWS))
    return 1 << max(0, (max(num_rows, 1) - 1) // rows_per_bucket).bit_length()


def bucket_of(high_N: NDArray[np.uint64], num_buckets: int) -> NDArray[np.int64]:
    """The bucket of each digest, by its first bits."""
    bits = num_buckets.bit_length() - 1
    if bits == 0:
        return np.zeros(len(high_N), dtype=np.int64)
    return (high_N >> np.uint64(64 - bits)).astype(np.int64)
