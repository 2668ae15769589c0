"""Files of vectors: pieces and outputs alike hold window key, number of tokens and vector."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

ROW_GROUP_ROWS = 8192
"""Smaller and larger row groups read two to three times slower."""
METADATA_KEY = b"hpc_embed"


class Vectors(NamedTuple):
    """Rows of a vector file: one for each window, or one for each of its tokens, side by side and in order."""

    windows_N: NDArray[np.int64]
    """Window keys."""
    num_tokens_N: NDArray[np.int32]
    """Tokens that each vector was pooled from; without pooling, the number of rows that the window has."""
    vectors_ND: NDArray[np.float32]


class VectorWriter:
    """Writes vectors with bounded memory; rows may come in any number, row groups stay of one size."""

    def __init__(self, path: Path, dimension: int, metadata: dict[str, str]) -> None:
        self._schema = pa.schema(
            [
                ("window", pa.int64()),
                ("num_tokens", pa.int32()),
                pa.field("vector", pa.list_(pa.field("element", pa.float32(), nullable=False), dimension)),
            ],
            metadata={METADATA_KEY: json.dumps(metadata).encode("utf-8")},
        )
        self._writer = pq.ParquetWriter(
            path, self._schema, compression="none", use_dictionary=False, write_statistics=False
        )
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0

    def write(self, rows: Vectors) -> None:
        """Add rows."""
        flat = pa.array(np.ascontiguousarray(rows.vectors_ND, dtype=np.float32).reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(flat, type=self._schema.field("vector").type)
        columns = [pa.array(rows.windows_N), pa.array(rows.num_tokens_N, pa.int32()), vectors]
        self._waiting.append(pa.Table.from_arrays(columns, schema=self._schema))
        self._num_waiting += len(rows.windows_N)
        if self._num_waiting >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=ROW_GROUP_ROWS)
        self._waiting, self._num_waiting = [], 0

    def __enter__(self) -> VectorWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


class VectorFile:
    """A vector file opened for reading, a row group at a time.

    Raises pyarrow's or the system's error where the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path, memory_map=False, pre_buffer=True)
        self.num_rows: int = self._file.metadata.num_rows
        schema = self._file.schema_arrow
        self.dimension: int = schema.field("vector").type.list_size
        self.metadata: dict[str, str] = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))

    def __iter__(self) -> Iterator[Vectors]:
        for group in range(self._file.num_row_groups):
            table = self._file.read_row_group(group)
            flat = table["vector"].combine_chunks()
            yield Vectors(
                table["window"].to_numpy(),
                table["num_tokens"].to_numpy(),
                np.asarray(flat.flatten()).reshape(-1, self.dimension),
            )

    def windows(self) -> NDArray[np.int64]:
        """The keys alone, a row each."""
        keys: NDArray[np.int64] = self._file.read(columns=["window"])["window"].to_numpy()
        return keys

    def num_tokens(self) -> NDArray[np.int32]:
        """The numbers of tokens alone, a row each."""
        numbers: NDArray[np.int32] = self._file.read(columns=["num_tokens"])["num_tokens"].to_numpy()
        return numbers

    def close(self) -> None:
        """Release the file."""
        self._file.close()
