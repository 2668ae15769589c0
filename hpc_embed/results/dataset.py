"""The dataset: one row per record in input order, in Parquet parts that appear together or not at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hpc_embed.results.checks import MEBIBYTE, WindowVectors
from hpc_embed.run.vectors import METADATA_KEY, ROW_GROUP_ROWS

NUMBERS = {"float32": pa.float32(), "float16": pa.float16()}


class Rows(NamedTuple):
    """The vectors of a block of N records."""

    vectors_ND: NDArray[np.float32]
    num_tokens_N: NDArray[np.int64]
    has_vector_N: NDArray[np.bool_]
    failures: dict[int, str]
    """Reason by place in the block, for records with a window that failed."""


def dataset_schema(dimension: int, dtype: str, metadata: Mapping[str, object]) -> pa.Schema:
    """Columns of the dataset; the metadata stand as JSON under `hpc_embed`."""
    embedding = pa.list_(pa.field("element", NUMBERS[dtype]), dimension)
    columns = [
        ("ordinal", pa.int64()),
        ("id", pa.string()),
        ("embedding", embedding),
        ("length", pa.int64()),
        ("num_tokens", pa.int64()),
        ("num_windows", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
    return pa.schema(columns, metadata={METADATA_KEY: json.dumps(metadata).encode("utf-8")})


def write_parts(
    folder: Path, records: Path, windows: WindowVectors, pooling: str, schema: pa.Schema, part_mebibytes: int
) -> Counter[str]:
    """Write the parts into `folder`, in input order; how many records have each status."""
    dimension = schema.field("embedding").type.list_size
    width = dimension * schema.field("embedding").type.value_type.bit_width // 8
    rows_per_part = max(1, part_mebibytes * MEBIBYTE // (width * ROW_GROUP_ROWS)) * ROW_GROUP_ROWS
    statuses: Counter[str] = Counter()
    writer: pq.ParquetWriter | None = None
    rows_in_part = num_parts = 0
    try:
        for batch in _blocks(records):
            if writer is None or rows_in_part >= rows_per_part:
                if writer is not None:
                    writer.close()
                writer = pq.ParquetWriter(
                    folder / f"part-{num_parts:05d}.parquet",
                    schema,
                    compression={column: "none" if column == "embedding" else "zstd" for column in schema.names}
                    | {"embedding.list.element": "none"},
                    use_dictionary=["status", "reason"],
                    write_statistics=["ordinal"],
                )
                rows_in_part, num_parts = 0, num_parts + 1
            table = _table(batch, records_to_rows(batch["windows"], windows, pooling), schema)
            statuses.update(table["status"].to_pylist())
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            rows_in_part += len(batch)
    finally:
        if writer is not None:
            writer.close()
    return statuses


def _blocks(records: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(records) as file:
        yield from file.iter_batches(ROW_GROUP_ROWS)


def records_to_rows(keys: pa.ListArray, windows: WindowVectors, pooling: str) -> Rows:
    """One vector per record from the vectors of its windows: their maximum for `max`, else their mean
    weighted by tokens, so that the mean over windows is the mean over tokens.
    """
    num_records, dimension = len(keys), windows.vectors_UD.shape[1]
    lengths_N = keys.value_lengths().to_numpy()
    keys_W = keys.flatten().to_numpy()
    record_of_window_W = np.repeat(np.arange(num_records), lengths_N)
    tokens_W = windows.num_tokens_U[keys_W].astype(np.int64)
    num_tokens_N = np.zeros(num_records, dtype=np.int64)
    np.add.at(num_tokens_N, record_of_window_W, tokens_W)
    failures = {
        int(record_of_window_W[at]): windows.failed.get(int(keys_W[at]), "no vector")
        for at in np.flatnonzero(tokens_W == 0)
    }
    has_vector_N = lengths_N > 0
    has_vector_N[list(failures)] = False
    vectors_ND = np.zeros((num_records, dimension), dtype=np.float32)
    starts_N = np.cumsum(lengths_N) - lengths_N
    whole_N = has_vector_N & (lengths_N == 1)
    vectors_ND[whole_N] = windows.vectors_UD[keys_W[starts_N[whole_N]]]
    for record in np.flatnonzero(has_vector_N & (lengths_N > 1)):
        span = slice(starts_N[record], starts_N[record] + lengths_N[record])
        vectors_kD = windows.vectors_UD[keys_W[span]]
        if pooling == "max":
            vectors_ND[record] = vectors_kD.max(axis=0)
        else:
            vectors_ND[record] = np.average(vectors_kD.astype(np.float64), axis=0, weights=tokens_W[span])
    num_tokens_N[~has_vector_N] = 0
    return Rows(vectors_ND, num_tokens_N, has_vector_N, failures)


def _table(batch: pa.RecordBatch, rows: Rows, schema: pa.Schema) -> pa.Table:
    kind = schema.field("embedding").type
    flat = rows.vectors_ND.reshape(-1).astype(kind.value_type.to_pandas_dtype(), copy=False)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind, mask=pa.array(~rows.has_vector_N))
    statuses, reasons = batch["status"], batch["reason"]
    if rows.failures:
        statuses = pa.array(["failed" if at in rows.failures else old for at, old in enumerate(statuses.to_pylist())])
        reasons = pa.array([rows.failures.get(at, old) for at, old in enumerate(reasons.to_pylist())])
    columns = [
        batch["ordinal"],
        batch["id"],
        embedding,
        batch["length"],
        pa.array(rows.num_tokens_N),
        batch["windows"].value_lengths(),
        statuses,
        reasons,
    ]
    return pa.Table.from_arrays(columns, schema=schema)
