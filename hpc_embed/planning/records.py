"""records.parquet: every input record with what becomes of it and the keys of its windows."""

# N = records of a block

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hpc_embed.planning.spill import Spill, bucket_of, buckets_for
from hpc_embed.planning.verdicts import STATUSES
from hpc_embed.sequences import kernel
from hpc_embed.sequences.kernel import DIGEST, Ints

SCHEMA = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("id", pa.string()),
        ("description", pa.string()),
        ("length", pa.int64()),
        ("source", pa.int32()),
        ("line", pa.int64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("num_unknown", pa.int64()),
        ("windows", pa.list_(pa.int64())),
    ]
)
ROW_GROUP_ROWS = 1 << 16
IDS_PER_BUCKET = 1 << 18


class Formed(NamedTuple):
    """Records of a block as they are written."""

    rows: pa.RecordBatch
    id_digests_N: NDArray[np.void]


def form(scanned: pa.RecordBatch, first: int, source: int, num_lines_before: int, keys_W: Ints) -> Formed:
    """Form the records of a block, which stand in PartBlock's form; in any thread.

    `first` is the ordinal of the first of them; their lines count from so many on.
    """
    offsets = np.concatenate(([0], np.cumsum(np.asarray(scanned["num_windows"])))).astype(np.int32)
    columns = [
        pa.array(np.arange(first, first + len(scanned))),
        scanned["id"],
        scanned["description"],
        scanned["length"],
        pa.array(np.full(len(scanned), source, dtype=np.int32)),
        pa.array(np.asarray(scanned["line"]) + (num_lines_before + 1)),
        pa.array(STATUSES).take(scanned["status"]),
        scanned["reason"],
        scanned["num_unknown"],
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(keys_W)),
    ]
    return Formed(pa.RecordBatch.from_arrays(columns, schema=SCHEMA), kernel.digests_of(scanned["id"]))


class RecordsWriter:
    """Writes records.parquet in input order, and collects the digests of the ids."""

    def __init__(self, file: BinaryIO, num_records: int, folder: Path, memory_bytes: int) -> None:
        self._writer = pq.ParquetWriter(
            file, SCHEMA, compression="snappy", use_dictionary=["status", "reason"], write_statistics=["ordinal"]
        )
        self._waiting: list[pa.RecordBatch] = []
        self._num_waiting = 0
        self.ids = Spill(folder, "ids", DIGEST, buckets_for(num_records, IDS_PER_BUCKET), memory_bytes)

    def add(self, records: Formed) -> None:
        """Add the records of the next block."""
        self._waiting.append(records.rows)
        self._num_waiting += len(records.rows)
        self.ids.add(bucket_of(records.id_digests_N["high"], self.ids.num_buckets), records.id_digests_N)
        while self._num_waiting >= ROW_GROUP_ROWS:
            self._write(ROW_GROUP_ROWS)

    def _write(self, num_rows: int) -> None:
        table = pa.Table.from_batches(self._waiting)
        self._writer.write_table(table.slice(0, num_rows), row_group_size=ROW_GROUP_ROWS)
        rest = table.slice(num_rows)
        self._waiting, self._num_waiting = rest.to_batches(), len(rest)

    def __enter__(self) -> RecordsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._num_waiting:
            self._write(self._num_waiting)
        self._writer.close()
