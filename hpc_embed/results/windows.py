"""The vectors of windows: where each lies among the outputs, and those of a few at a time in memory."""

# U = windows of the plan, K = windows that are looked at, R = their rows, D = numbers of a row

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hpc_embed.run import files
from hpc_embed.run.faults import naming_full_disk
from hpc_embed.run.files import discard, temporary_sibling
from hpc_embed.run.outputs import Outputs
from hpc_embed.run.rows import RowReader, ranges
from hpc_embed.run.vectors import RowPlaces

PLACE = np.dtype([("row", "<i8"), ("output", "<i4"), ("num_tokens", "<i4")])
"""The first row of a window, in which output, and 0 tokens where there is none."""


class WindowVectors(NamedTuple):
    """The vectors of K windows."""

    keys_K: NDArray[np.int64]
    """Ascending."""
    vectors_RD: NDArray[np.float32]
    """Each window's side by side."""
    first_row_K: NDArray[np.int64]
    num_tokens_K: NDArray[np.int32]
    """0 where there is no vector."""
    is_per_token: bool
    """A row for each token of a window, and not one for each window."""
    failed: Mapping[int, str] = {}
    """Reason by key."""


class Source(Protocol):
    """What gives out the vectors of all windows."""

    @property
    def num_windows(self) -> int: ...

    @property
    def num_rows(self) -> int:
        """Of all windows."""

    @property
    def dimension(self) -> int:
        """Numbers of a row."""

    @property
    def is_per_token(self) -> bool: ...

    def count_rows(self, keys_K: NDArray[np.int64]) -> int:
        """Rows of these windows, each of which is named once."""

    def read(self, keys_K: NDArray[np.int64]) -> WindowVectors:
        """Their vectors, keys ascending; several threads may ask at once."""

    def without_vectors(self, keys_K: NDArray[np.int64]) -> WindowVectors:
        """Their tokens alone."""


class Places(Protocol):
    """PLACE by key."""

    def __len__(self) -> int: ...

    def __getitem__(self, keys_K: NDArray[np.int64]) -> NDArray[np.void]: ...


@dataclass
class Windows:
    """Where the vectors of all U windows lie."""

    places_U: Places
    dimension: int
    outputs: Outputs
    files: MutableMapping[int, RowPlaces] = field(default_factory=dict)
    """By shard."""
    num_rows: int = 0
    """Of all outputs so far."""
    failed: dict[int, str] = field(default_factory=dict)
    """Reason by key."""
    reader: RowReader = field(default_factory=RowReader)

    @property
    def num_windows(self) -> int:
        return len(self.places_U)

    @property
    def is_per_token(self) -> bool:
        return self.outputs.per_letter is not None

    def rows_of(self, num_tokens_K: NDArray[np.int32]) -> NDArray[np.int64]:
        """How many rows windows of so many tokens have; none without tokens."""
        num_rows_K = num_tokens_K.astype(np.int64) + self.outputs.num_pooled_rows if self.is_per_token else 1
        return np.where(num_tokens_K > 0, num_rows_K, 0)

    def count_rows(self, keys_K: NDArray[np.int64]) -> int:
        return int(self.rows_of(self.places_U[keys_K]["num_tokens"]).sum())

    def without_vectors(self, keys_K: NDArray[np.int64]) -> WindowVectors:
        num_tokens_K = self.places_U[keys_K]["num_tokens"]
        nothing_RD = np.empty((0, self.dimension), dtype=np.float32)
        return WindowVectors(keys_K, nothing_RD, np.zeros_like(keys_K), num_tokens_K, self.is_per_token, self.failed)

    def read(self, keys_K: NDArray[np.int64]) -> WindowVectors:
        """Each output from its begin towards its end."""
        places_K = self.places_U[keys_K]
        num_rows_K = self.rows_of(places_K["num_tokens"])
        order_K = np.lexsort((places_K["row"], places_K["output"]))
        first_row_K = np.empty(len(keys_K), dtype=np.int64)
        first_row_K[order_K] = np.cumsum(num_rows_K[order_K]) - num_rows_K[order_K]
        vectors_RD = np.empty((int(num_rows_K.sum()), self.dimension), dtype=np.float32)
        with_rows_k = order_K[num_rows_K[order_K] > 0]
        output_k = places_K["output"][with_rows_k]
        at = 0
        for group_k in np.split(with_rows_k, np.flatnonzero(np.diff(output_k)) + 1):
            if len(group_k):
                rows_n = ranges(places_K["row"][group_k], num_rows_K[group_k])
                file = self.files[int(places_K["output"][group_k[0]])]
                self.reader.fill(vectors_RD[at : at + len(rows_n)], file, rows_n)
                at += len(rows_n)
        return WindowVectors(keys_K, vectors_RD, first_row_K, places_K["num_tokens"], self.is_per_token, self.failed)


@contextmanager
def room_for_places(root: Path, num_windows: int, memory_bytes: int) -> Iterator[NDArray[np.void]]:
    """Room for the places of all windows, in memory or beyond so many bytes in a scratch file that goes away.

    OSError where the disk has none. Once the places are noted, see `settle`.
    """
    if num_windows * PLACE.itemsize <= memory_bytes:
        yield np.zeros(num_windows, dtype=PLACE)
        return
    scratch = temporary_sibling(root / "gathering")
    try:
        with naming_full_disk(scratch), scratch.open("xb") as file:
            # taken now: a full disk ends a process that writes to what is mapped
            files.storage.take_room(file, num_windows * PLACE.itemsize)
        yield np.memmap(scratch, dtype=PLACE, mode="r+", shape=(num_windows,))
    finally:
        discard(scratch)


def settle(places_U: NDArray[np.void]) -> None:
    """OSError where storage has lost some of what was noted: pages that could not be written are read as they were."""
    if isinstance(places_U, np.memmap):
        places_U.flush()
