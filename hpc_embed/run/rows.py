"""Rows of vector files, read at their places: any of them, from any number of files."""

# n = rows that are asked for, D = numbers of a row, G = row groups of a file

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_embed.run.placed import PlacedFile
from hpc_embed.run.vectors import RowPlaces, VectorFile

MOST_OPEN_FILES = 128


class RowReader:
    """Keeps some files open; several threads may read at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[Path, PlacedFile] = OrderedDict()
        self._of_thread = threading.local()

    def fill(self, vectors_nD: NDArray[np.float32], places: RowPlaces, rows_n: NDArray[np.int64]) -> None:
        """Put rows of a file, in this order, into an array; those that lie side by side are one read.

        Raises FileNotFoundError for a file that is gone, EnvironmentFault where it cannot be read for now.
        """
        group_n = np.searchsorted(places.first_row_G, rows_n, side="right") - 1
        breaks = np.flatnonzero((np.diff(rows_n) != 1) | (np.diff(group_n) != 0)) + 1
        row_bytes = vectors_nD.itemsize * vectors_nD.shape[1]
        edges = [0, *breaks.tolist(), len(rows_n)] if len(rows_n) else []
        for start, stop in pairwise(edges):
            group = int(group_n[start])
            row = int(rows_n[start]) - places.first_row_G[group]
            if places.first_byte_G[group] < 0:
                vectors_nD[start:stop] = self._decoded(places, group)[row : row + stop - start]
            else:
                self._file(places.path).fill(vectors_nD[start:stop], places.first_byte_G[group] + row * row_bytes)

    def _file(self, path: Path) -> PlacedFile:
        with self._lock:
            if path not in self._files:
                self._files[path] = PlacedFile(path)
                if len(self._files) > MOST_OPEN_FILES:
                    self._files.popitem(last=False)
            self._files.move_to_end(path)
            return self._files[path]

    def _decoded(self, places: RowPlaces, group: int) -> NDArray[np.float32]:
        """All vectors of a row group, of a version that wrote several pages; the last one is kept."""
        key = (places.path, group)
        last: _Decoded | None = getattr(self._of_thread, "decoded", None)
        if last is None or last.key != key:
            last = self._of_thread.decoded = _Decoded(key, VectorFile(places.path).rows(group).vectors_ND)
        return last.vectors_ND


class _Decoded(NamedTuple):
    key: tuple[Path, int]
    vectors_ND: NDArray[np.float32]


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, … of each range, one after the other."""
    before = np.cumsum(lengths) - lengths
    numbers: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
    return numbers
