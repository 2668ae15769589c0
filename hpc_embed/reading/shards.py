"""The vectors of a dataset that leaves them in the outputs, made of windows as gather makes them."""

# W = windows of some rows, R = vectors of these rows, D = dimension

from __future__ import annotations

from collections.abc import MutableMapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hpc_embed.errors import RunConflict
from hpc_embed.reading.index import Index
from hpc_embed.results.dataset import Arrangement, records_to_rows
from hpc_embed.results.windows import PLACE, Windows
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.vectors import ROW_GROUP_ROWS, RowPlaces


class ShardVectors:
    """Vectors by column and by row of the dataset."""

    def __init__(self, layout: RunLayout, index: Index, how: Arrangement) -> None:
        dimension = index.columns[0].dimension * how.outputs.width
        self._index, self._how = index, how
        self._windows = Windows(_Places(index), dimension, how.outputs, _Files(layout, index))

    def read(self, column: int, rows: range) -> NDArray[np.float32]:
        """Those of the rows that have one, [R, D]."""
        blocks = [rows[start : start + ROW_GROUP_ROWS] for start in range(0, len(rows), ROW_GROUP_ROWS)]
        nothing_RD = np.empty((0, self._index.columns[column].dimension), dtype=np.float32)
        read = [self._read(column, block) for block in blocks]
        return read[0] if len(read) == 1 else np.concatenate([nothing_RD, *read])

    def _read(self, column: int, rows: range) -> NDArray[np.float32]:
        first_N = self._index.records(rows.start, rows.stop)["windows"]
        keys_W = self._index.windows(int(first_N[0]), int(first_N[-1]))
        keys = pa.ListArray.from_arrays(pa.array((first_N - first_N[0]).astype(np.int32)), pa.array(keys_W))
        return records_to_rows(keys, self._windows.read(np.unique(keys_W)), self._how).columns[column].vectors_RD


class _Places:
    """PLACE by key, read where it is asked for; keys ascending."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __len__(self) -> int:
        return self._index.num_windows

    def __getitem__(self, keys_K: NDArray[np.int64]) -> NDArray[np.void]:
        breaks = np.flatnonzero(np.diff(keys_K) != 1) + 1
        runs = [self._index.window_places(int(run[0]), len(run)) for run in np.split(keys_K, breaks) if len(run)]
        return np.concatenate([np.empty(0, dtype=PLACE), *runs])


class _Files(dict[int, RowPlaces], MutableMapping[int, RowPlaces]):
    """Where the rows of an output lie, by shard; looked at when it is first asked for."""

    def __init__(self, layout: RunLayout, index: Index) -> None:
        super().__init__()
        self._layout, self._index = layout, index

    def __missing__(self, shard: int) -> RowPlaces:
        path, places = self._layout.output(shard), self._index.output(shard)
        try:
            is_same = path.stat().st_size == places.num_bytes
        except FileNotFoundError:
            is_same = False
        if not is_same:
            raise RunConflict(f"{path} is not what was gathered.", remedy="See `hpc-embed gather --check`.")
        self[shard] = RowPlaces(path, places.first_row_G, places.first_byte_G)
        return self[shard]
