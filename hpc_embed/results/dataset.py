"""The dataset: one row per record in input order, in Parquet parts that appear together or not at all."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hpc_embed.results.checks import MEBIBYTE, WindowVectors
from hpc_embed.run import files
from hpc_embed.run.faults import patiently
from hpc_embed.run.files import new_file
from hpc_embed.run.vectors import METADATA_KEY, ROW_GROUP_ROWS

NUMBERS = {"float32": pa.float32(), "float16": pa.float16()}


class Rows(NamedTuple):
    """The vectors of a block of N records."""

    vectors_RD: NDArray[np.float32]
    num_rows_N: NDArray[np.int64]
    """How many of them each record has, side by side: one, its tokens without pooling, or none."""
    num_tokens_N: NDArray[np.int64]
    failures: dict[int, str]
    """Reason by place in the block, for records with a window that failed."""


class Part(NamedTuple):
    """What dataset.json tells of a part."""

    rows: int
    num_bytes: int
    sha256: str


class Written(NamedTuple):
    """What was written."""

    statuses: Counter[str]
    """How many records have each status."""
    parts: dict[str, Part]
    """By name."""


class Hashed(io.RawIOBase):
    """A file that is written from its begin to its end, and the digest of what went into it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest, self.num_bytes = hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.digest.update(content)
        self.num_bytes += len(content)
        self._file.write(content)
        return len(content)


def dataset_schema(dimension: int, dtype: str, metadata: Mapping[str, object], *, is_per_token: bool) -> pa.Schema:
    """Columns of the dataset; the metadata stand as JSON under `hpc_embed`."""
    vector = pa.list_(pa.field("element", NUMBERS[dtype]), dimension)
    columns = [
        ("ordinal", pa.int64()),
        ("id", pa.string()),
        ("embedding", pa.large_list(pa.field("element", vector)) if is_per_token else vector),
        ("length", pa.int64()),
        ("num_tokens", pa.int64()),
        ("num_windows", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
    return pa.schema(columns, metadata={METADATA_KEY: json.dumps(metadata).encode("utf-8")})


def write_parts(
    folder: Path, records: Path, windows: WindowVectors, pooling: str, schema: pa.Schema, part_mebibytes: int
) -> Written:
    """Write the parts into `folder`, in input order."""
    width = windows.vectors_RD.shape[1] * _number_type(schema).bit_width // 8
    vectors_per_record = max(1, windows.num_rows // max(len(windows.num_tokens_U), 1)) if windows.is_per_token else 1
    rows_per_group = max(1, ROW_GROUP_ROWS // vectors_per_record)
    group_bytes = width * vectors_per_record * rows_per_group
    rows_per_part = max(1, part_mebibytes * MEBIBYTE // group_bytes) * rows_per_group
    statuses: Counter[str] = Counter()
    parts: dict[str, Part] = {}
    hashed: Hashed | None = None
    writer: pq.ParquetWriter | None = None
    rows_in_part = 0
    with ExitStack() as part:
        for batch in _blocks(records, rows_per_group):
            if writer is None or hashed is None or rows_in_part >= rows_per_part:
                part.close()
                _note_part(parts, hashed, rows_in_part)
                hashed = Hashed(part.enter_context(new_file(folder / part_name(len(parts)))))
                writer = part.enter_context(_part_writer(hashed, schema))
                rows_in_part = 0
            table = _table(batch, records_to_rows(batch["windows"], windows, pooling), schema)
            statuses.update(table["status"].to_pylist())
            writer.write_table(table, row_group_size=rows_per_group)
            rows_in_part += len(batch)
    _note_part(parts, hashed, rows_in_part)
    return Written(statuses, parts)


def _note_part(parts: dict[str, Part], hashed: Hashed | None, rows: int) -> None:
    if hashed is not None:
        parts[part_name(len(parts))] = Part(rows, hashed.num_bytes, hashed.digest.hexdigest())


def part_name(index: int) -> str:
    """`part-00003.parquet`."""
    return f"part-{index:05d}.parquet"


def _part_writer(file: Hashed, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        file,
        schema,
        compression={column: "none" if column == "embedding" else "zstd" for column in schema.names}
        | {"embedding.list.element": "none", "embedding.list.element.list.element": "none"},
        use_dictionary=["status", "reason"],
        write_statistics=["ordinal"],
    )


def _blocks(records: Path, num_rows: int) -> Iterator[pa.RecordBatch]:
    with patiently(lambda: files.storage.open_to_read(records), records) as file:
        yield from pq.ParquetFile(file).iter_batches(num_rows)


def records_to_rows(keys: pa.ListArray, windows: WindowVectors, pooling: str) -> Rows:
    """One vector per record from the vectors of its windows: their maximum for `max`, else their mean
    weighted by tokens, so that the mean over windows is the mean over tokens. Without pooling, the vectors of its
    tokens, one window after the other.
    """
    lengths_N = keys.value_lengths().to_numpy()
    keys_W = keys.flatten().to_numpy()
    record_of_window_W = np.repeat(np.arange(len(keys)), lengths_N)
    tokens_W = windows.num_tokens_U[keys_W].astype(np.int64)
    num_tokens_N = np.bincount(record_of_window_W, weights=tokens_W, minlength=len(keys)).astype(np.int64)
    failures = {
        int(record_of_window_W[at]): windows.failed.get(int(keys_W[at]), "no vector")
        for at in np.flatnonzero(tokens_W == 0)
    }
    has_vector_N = lengths_N > 0
    has_vector_N[list(failures)] = False
    num_tokens_N[~has_vector_N] = 0
    first_row_W, has_vector_W = windows.first_row_U[keys_W], has_vector_N[record_of_window_W]
    if windows.is_per_token:
        rows_R = _ranges(first_row_W[has_vector_W], tokens_W[has_vector_W])
        return Rows(windows.vectors_RD[rows_R], num_tokens_N, num_tokens_N, failures)
    starts_N = np.cumsum(lengths_N) - lengths_N
    rows_R = first_row_W[starts_N[has_vector_N]]
    vectors_RD = windows.vectors_RD[rows_R]
    place_N = np.cumsum(has_vector_N) - 1
    for record in np.flatnonzero(has_vector_N & (lengths_N > 1)):
        span = slice(starts_N[record], starts_N[record] + lengths_N[record])
        vectors_kD = windows.vectors_RD[first_row_W[span]]
        if pooling == "max":
            vectors_RD[place_N[record]] = vectors_kD.max(axis=0)
        else:
            vectors_RD[place_N[record]] = np.average(vectors_kD.astype(np.float64), axis=0, weights=tokens_W[span])
    return Rows(vectors_RD, has_vector_N.astype(np.int64), num_tokens_N, failures)


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, … of each range, one after the other."""
    before = np.cumsum(lengths) - lengths
    numbers: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
    return numbers


def _number_type(schema: pa.Schema) -> pa.DataType:
    kind = schema.field("embedding").type
    return kind.value_type.value_type if pa.types.is_large_list(kind) else kind.value_type


def _table(batch: pa.RecordBatch, rows: Rows, schema: pa.Schema) -> pa.Table:
    statuses, reasons = batch["status"], batch["reason"]
    if rows.failures:
        statuses = pa.array(["failed" if at in rows.failures else old for at, old in enumerate(statuses.to_pylist())])
        reasons = pa.array([rows.failures.get(at, old) for at, old in enumerate(reasons.to_pylist())])
    columns = [
        batch["ordinal"],
        batch["id"],
        _embedding(rows, schema),
        batch["length"],
        pa.array(rows.num_tokens_N),
        batch["windows"].value_lengths(),
        statuses,
        reasons,
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _embedding(rows: Rows, schema: pa.Schema) -> pa.Array:
    """The column of vectors, or of lists of vectors, null where a record has none."""
    kind, number = schema.field("embedding").type, _number_type(schema).to_pandas_dtype()
    is_missing_N = pa.array(rows.num_rows_N == 0)
    if pa.types.is_large_list(kind):
        flat = pa.array(rows.vectors_RD.reshape(-1).astype(number, copy=False))
        vectors = pa.FixedSizeListArray.from_arrays(flat, type=kind.value_type)
        offsets = np.concatenate(([0], np.cumsum(rows.num_rows_N)))
        return pa.LargeListArray.from_arrays(pa.array(offsets), vectors, type=kind, mask=is_missing_N)
    vectors_ND = np.zeros((len(rows.num_rows_N), rows.vectors_RD.shape[1]), dtype=number)
    vectors_ND[rows.num_rows_N > 0] = rows.vectors_RD
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), type=kind, mask=is_missing_N)
