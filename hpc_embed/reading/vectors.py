"""The numbers of vectors: read where the index knows their place, else decoded by row group and kept for a while."""

# n = vectors, D = dimension

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hpc_embed.errors import RunConflict
from hpc_embed.reading.index import Index
from hpc_embed.run import files
from hpc_embed.run.faults import patiently
from hpc_embed.run.files import sha256_of_file
from hpc_embed.run.placed import PlacedFile

MOST_OPEN_PARTS = 256
MOST_DECODED_BYTES = 64 << 20
PROVEN_WHEN_OPENED_BYTES = 64 << 20
"""Read whole in a tenth of a second; of more, single vectors would have to wait."""


def is_proven(path: Path, sha256: str | None) -> bool:
    """False where a small file is not what it was; a large one is `gather --check`'s and `export`'s to prove."""
    if sha256 is None or files.storage.status(path).st_size > PROVEN_WHEN_OPENED_BYTES:
        return True
    return patiently(lambda: sha256_of_file(path), path) == sha256


class VectorReader:
    """Vectors by column and by their number: 0 is the first of all, and records without vectors do not count."""

    def __init__(self, dataset: Path, index: Index, digests: Mapping[str, str]) -> None:
        """`digests`: of the parts by name, by which small ones are proven when they are opened."""
        self._dataset, self._digests = dataset, digests
        self._index = index
        self._names = list(index.parts)
        sums = ["tokens" if column.is_per_token else "vectors" for column in index.columns]
        self._firsts: list[list[int]] = [index.groups[name].tolist() for name in sums]
        self._places: list[list[int]] = index.places_GC.T.tolist()
        self._part_of_group: list[int] = index.groups["part"].tolist()
        self._parts: OrderedDict[int, PlacedFile] = OrderedDict()
        self._decoded: OrderedDict[tuple[int, int], NDArray[np.floating]] = OrderedDict()

    def read(self, column: int, first: int, stop: int) -> NDArray[np.floating]:
        """Vectors side by side, [n, D], in memory of their own."""
        about, firsts, at = self._index.columns[column], self._firsts[column], first
        vectors_nD = np.empty((stop - first, about.dimension), dtype=about.dtype)
        while at < stop:
            group = bisect_right(firsts, at) - 1
            end = min(stop, firsts[group + 1])
            self._fill(vectors_nD[at - first : end - first], column, group, at - firsts[group])
            at = end
        return vectors_nD

    def _fill(self, vectors_nD: NDArray[np.floating], column: int, group: int, first: int) -> None:
        place = self._places[column][group]
        if place < 0:
            vectors_nD[:] = self._decode(column, group)[first : first + len(vectors_nD)]
        else:
            part = self._part(self._part_of_group[group])
            part.fill(vectors_nD, place + first * vectors_nD.dtype.itemsize * vectors_nD.shape[1])

    def _part(self, number: int) -> PlacedFile:
        if number not in self._parts:
            name = self._names[number]
            try:
                part = PlacedFile(self._dataset / name)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise RunConflict(f"{self._dataset / name} is missing.", remedy="Gather again.") from error
            if part.num_bytes != self._index.parts[name] or not is_proven(part.path, self._digests.get(name)):
                raise RunConflict(f"{part.path} is not what was gathered.", remedy="Gather again.")
            self._parts[number] = part
            if len(self._parts) > MOST_OPEN_PARTS:
                self._parts.popitem(last=False)
        return self._parts[number]

    def _decode(self, column: int, group: int) -> NDArray[np.floating]:
        """All vectors of a row group, as Parquet's reader finds them."""
        key = (column, group)
        if key not in self._decoded:
            about, where = self._index.columns[column], self._index.groups[group]
            part = pq.ParquetFile(self._part(int(where["part"])).file)
            column_N = part.read_row_group(int(where["number"]), columns=[about.name])[about.name]
            values = pa.concat_arrays(column_N.chunks).flatten()  # which leaves nulls out
            numbers = values.flatten() if about.is_per_token else values
            self._decoded[key] = np.asarray(numbers).reshape(-1, about.dimension)
            while sum(each.nbytes for each in self._decoded.values()) > MOST_DECODED_BYTES and len(self._decoded) > 1:
                self._decoded.popitem(last=False)
        self._decoded.move_to_end(key)
        return self._decoded[key]
