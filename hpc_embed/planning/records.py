"""records.parquet: every input record with what becomes of it and the keys of its windows."""

# N = records of a block

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from threading import Event
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hpc_embed.planning.keys import WindowKeys, num_distinct
from hpc_embed.planning.lookahead import in_turn
from hpc_embed.planning.parts import read_records
from hpc_embed.planning.scan import Scanned
from hpc_embed.planning.spill import Bucketed, Spill, bucket_of, buckets_for, by_bucket
from hpc_embed.planning.verdicts import STATUSES
from hpc_embed.run.files import whole_file
from hpc_embed.run.hashed import Hashed
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.parquet import parquet_writer
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


class WrittenRecords(NamedTuple):
    """What is known of records.parquet once it is there."""

    num_distinct_ids: int
    sha256: str


class Formed(NamedTuple):
    """Records of a block as they are written."""

    rows: pa.RecordBatch
    ids: Bucketed
    """Their digests by bucket."""


def write_records(
    scanned: Scanned, keys: WindowKeys, layout: RunLayout, threads: Executor, memory_bytes: int, stop: Event
) -> WrittenRecords:
    """Write records.parquet, unless stopped."""
    num_records = sum(part.num_records for part in scanned.parts)
    ids = Spill(scanned.folder, "ids", DIGEST, buckets_for(num_records, IDS_PER_BUCKET), memory_bytes)
    with whole_file(layout.records) as file, _writer(file) as writer:
        waiting: list[pa.RecordBatch] = []
        for formed in in_turn(threads, _calls(scanned, keys, ids.num_buckets)):
            if stop.is_set():
                raise InterruptedError("another thread ended the plan")
            ids.add(formed.ids)
            waiting.append(formed.rows)
            while sum(map(len, waiting)) >= ROW_GROUP_ROWS:
                waiting = _write_group(writer, waiting)
        if sum(map(len, waiting)):
            _write_group(writer, waiting)
    return WrittenRecords(num_distinct(ids), file.sha256)


def _writer(file: Hashed) -> pq.ParquetWriter:
    return parquet_writer(
        file, SCHEMA, compression="snappy", use_dictionary=["status", "reason"], write_statistics=["ordinal"]
    )


def _write_group(writer: pq.ParquetWriter, waiting: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Write a row group, or what there is of one; what is left."""
    table = pa.Table.from_batches(waiting)
    writer.write_table(table.slice(0, ROW_GROUP_ROWS), row_group_size=ROW_GROUP_ROWS)
    left: list[pa.RecordBatch] = table.slice(ROW_GROUP_ROWS).to_batches()
    return left


def _calls(scanned: Scanned, keys: WindowKeys, num_buckets: int) -> Iterator[Callable[[], Formed]]:
    """What forms the records of each block."""
    source, num_lines = -1, 0
    start = first = 0
    for part in scanned.parts:
        if part.source != source:
            source, num_lines = part.source, 0
        for records in read_records(scanned.folder, part):
            stop = start + int(np.asarray(records["num_windows"]).sum())
            yield partial(_form, records, first, source, num_lines, keys.keys(start, stop), num_buckets)
            start, first = stop, first + len(records)
        num_lines += part.num_lines


def _form(
    scanned: pa.RecordBatch, first: int, source: int, num_lines_before: int, keys_W: Ints, num_buckets: int
) -> Formed:
    """Form the records of a block; in any thread.

    `first` is the ordinal of the first of them; their lines count from so many on.
    """
    digests_N = kernel.digests_of(scanned["id"])
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
    ids = by_bucket(bucket_of(digests_N["high"], num_buckets), digests_N)
    return Formed(pa.RecordBatch.from_arrays(columns, schema=SCHEMA), ids)
