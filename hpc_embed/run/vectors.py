"""Files of vectors: pieces and outputs alike hold window key, number of tokens and vector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hpc_embed.run import files
from hpc_embed.run.faults import is_passing, reason
from hpc_embed.run.pages import first_byte
from hpc_embed.run.parquet import metadata_of, numbers_of_a_vector, parquet_writer, with_metadata

ROW_GROUP_ROWS = 8192
"""Smaller and larger row groups read two to three times slower."""
PAGE_BYTES = 1 << 30
"""More than a row group has: its vectors are one page, whose numbers lie side by side (`run.pages`)."""


class Vectors(NamedTuple):
    """Rows of a vector file: one for each window, or one for each of its tokens, side by side and in order."""

    windows_N: NDArray[np.int64]
    """Window keys."""
    num_tokens_N: NDArray[np.int32]
    """Tokens that each vector was pooled from; without pooling, the number of rows that the window has."""
    vectors_ND: NDArray[np.float32]


class RowPlaces(NamedTuple):
    """Where the rows of a vector file lie; G row groups."""

    path: Path
    first_row_G: tuple[int, ...]
    """And behind the last the number of all rows."""
    first_byte_G: tuple[int, ...]
    """Where the numbers of a row group begin; -1 where only Parquet's reader finds them."""


class VectorWriter:
    """Writes vectors with bounded memory; rows may come in any number, row groups stay of one size."""

    def __init__(self, file: BinaryIO, dimension: int, metadata: dict[str, str]) -> None:
        vector = pa.list_(pa.field("element", pa.float32(), nullable=False), dimension)
        columns = pa.schema([("window", pa.int64()), ("num_tokens", pa.int32()), ("vector", vector)])
        self._schema = with_metadata(columns, {**metadata, "dimension": dimension})
        self._writer = parquet_writer(
            file,
            self._schema,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            data_page_size=PAGE_BYTES,
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


class Damaged(Exception):
    """What was read is not what such a file holds."""


class VectorFile:
    """A vector file opened for reading, a row group at a time; closed with its last reference.

    Everything raises Damaged for content that is no vector file's, and OSError or MemoryError for faults of the
    system, which say nothing about the content.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._source = files.storage.open_to_read(path)
        with faults_of_content():
            self._file = pq.ParquetFile(self._source, pre_buffer=True)
            self.num_rows: int = self._file.metadata.num_rows
            schema = self._file.schema_arrow
            kinds = {name: schema.field(name).type for name in ("window", "num_tokens", "vector")}
            if (kinds["window"], kinds["num_tokens"]) != (pa.int64(), pa.int32()):
                raise ValueError("columns of other types")
            vector = kinds["vector"]
            is_list = pa.types.is_list(vector) or pa.types.is_fixed_size_list(vector)
            if not is_list or vector.value_type != pa.float32():
                raise ValueError("vectors of another type")
            metadata = metadata_of(schema)
            self.dimension: int = numbers_of_a_vector(vector, metadata)
            self.metadata = {name: str(value) for name, value in metadata.items() if name != "dimension"}

    def __del__(self) -> None:
        if hasattr(self, "_source"):
            self._source.close()

    def __iter__(self) -> Iterator[Vectors]:
        for group in range(self._file.num_row_groups):
            yield self.rows(group)

    def rows(self, group: int) -> Vectors:
        """Those of one row group."""
        with faults_of_content():
            table = self._file.read_row_group(group)
            if any(column.null_count for column in table.columns):
                raise ValueError("an empty cell")
            vectors = table["vector"].combine_chunks()
            if len(table) and {*pc.min_max(pc.list_value_length(vectors)).as_py().values()} != {self.dimension}:
                raise ValueError("a vector of another length")
            flat = np.asarray(vectors.flatten())
            return Vectors(
                table["window"].to_numpy(), table["num_tokens"].to_numpy(), flat.reshape(len(table), self.dimension)
            )

    def windows(self) -> NDArray[np.int64]:
        """The keys alone, a row each."""
        return self._column("window")

    def num_tokens(self) -> NDArray[np.int32]:
        """The numbers of tokens alone, a row each."""
        return self._column("num_tokens").astype(np.int32, copy=False)

    def places(self) -> RowPlaces:
        """Where its rows lie."""
        with faults_of_content():
            groups = [self._file.metadata.row_group(number) for number in range(self._file.num_row_groups)]
            leaves = [self._file.schema.column(at).path.split(".")[0] for at in range(len(self._file.schema))]
            sizes = [4 * self.dimension * group.num_rows for group in groups]
            chunks = [group.column(leaves.index("vector")) for group in groups]
            return RowPlaces(
                self._path,
                (0, *accumulate(group.num_rows for group in groups)),
                tuple(first_byte(self._source, chunk, size) for chunk, size in zip(chunks, sizes, strict=True)),
            )

    def _column(self, name: str) -> NDArray[np.int64]:
        with faults_of_content():
            column = self._file.read(columns=[name])[name]
            if column.null_count:
                raise ValueError("an empty cell")
            numbers: NDArray[np.int64] = column.to_numpy()
            return numbers


@contextmanager
def faults_of_content() -> Iterator[None]:
    """pyarrow's errors about bytes as Damaged; those of the system as they are."""
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        if is_passing(error) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise Damaged(reason(error)) from error
