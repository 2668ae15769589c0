"""The Parquet parts of a dataset: several written at once, each by itself, in bounded memory."""

# N = records of a block

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hpc_embed.progress import Counting
from hpc_embed.results.dataset import Arrangement, by_window, dataset_table, number_type, records_to_rows
from hpc_embed.results.threads import in_order
from hpc_embed.results.windows import Source
from hpc_embed.run import files
from hpc_embed.run.faults import patiently
from hpc_embed.run.files import new_file
from hpc_embed.run.hashed import Hashed
from hpc_embed.run.parquet import parquet_writer
from hpc_embed.run.vectors import PAGE_BYTES, ROW_GROUP_ROWS

MEBIBYTE = 1 << 20
COPIES = 5
"""Of a row group's vectors in memory while it is written: in order, in Arrow's columns, in Parquet's page."""
BYTES_WITHOUT_VECTORS = 64
"""Of a record, about."""
RECORD_COLUMNS = ("ordinal", "id", "length", "num_unknown", "status", "reason", "windows")


class Part(NamedTuple):
    """What dataset.json tells of a part, and of the index."""

    rows: int
    num_bytes: int
    sha256: str


class Written(NamedTuple):
    """What was written."""

    statuses: Counter[str]
    """How many records have each status."""
    parts: dict[str, Part]
    """By name."""


class Room(NamedTuple):
    """How much at once."""

    part_mebibytes: int
    """Size of one part file."""
    memory_mebibytes: int
    """Vectors held in memory by all threads."""
    num_threads: int
    """At most; fewer where their memory would not do."""


def part_name(index: int) -> str:
    """`part-00003.parquet`."""
    return f"part-{index:05d}.parquet"


class PartsWriter:
    """Writes the parts into a folder, in input order, from records.parquet and the vectors of windows."""

    def __init__(
        self, folder: Path, records: Path, windows: Source, how: Arrangement, schema: pa.Schema, room: Room
    ) -> None:
        self._folder, self._records, self._windows, self._how, self._schema = folder, records, windows, how, schema
        self._lock = threading.Lock()
        self._is_over = False
        """Another part has failed."""
        self._vectors_of = [output.name for output in how.outputs.columns]
        with patiently(lambda: files.storage.open_to_read(records), records) as file:
            footer = pq.ParquetFile(file).metadata
        self._groups = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
        self._num_records: int = footer.num_rows
        per_record = self._vectors_per_record()
        self._rows_per_group = max(1, ROW_GROUP_ROWS // per_record)
        width = BYTES_WITHOUT_VECTORS
        if how.holds_vectors:
            width = windows.dimension * number_type(schema, self._vectors_of[0]).bit_width // 8
        written_bytes = width * per_record * self._rows_per_group
        self._rows_per_part = max(1, room.part_mebibytes * MEBIBYTE // written_bytes) * self._rows_per_group
        group_bytes = 4 * windows.dimension * per_record * self._rows_per_group
        memory = room.memory_mebibytes * MEBIBYTE
        self._num_threads = max(1, min(room.num_threads, memory // ((COPIES + 1) * group_bytes)))
        self._bytes_at_once = max(memory // self._num_threads - COPIES * group_bytes, group_bytes)

    def write(self, count: Counting) -> Written:
        """All of them."""
        statuses: Counter[str] = Counter()
        parts: dict[str, Part] = {}
        starts = range(0, max(self._num_records, 1), self._rows_per_part)
        with closing(in_order(lambda start: self._write_part(start, count), starts, self._num_threads)) as written:
            try:
                for _, made in written:
                    part, found = made()
                    parts[part_name(len(parts))] = part
                    statuses.update(found)
            except BaseException:
                self._is_over = True  # before the others are waited for
                raise
        return Written(statuses, parts)

    def _write_part(self, start: int, count: Counting) -> tuple[Part, Counter[str]]:
        records = range(start, min(start + self._rows_per_part, self._num_records))
        path, statuses, num_rows = self._folder / part_name(start // self._rows_per_part), Counter[str](), 0
        with new_file(path) as file:
            hashed = Hashed(file)
            with self._parquet_writer(hashed) as writer:
                for table, num_records in self._tables(records):
                    writer.write_table(table, row_group_size=self._group_size)
                    statuses.update(_statuses(table))
                    num_rows += num_records
                    del table  # before the next one is made
                    if self._is_over:
                        break
                    with self._lock:
                        count.advance(num_records)
        return Part(num_rows, hashed.num_bytes, hashed.sha256), statuses

    @cached_property
    def _group_size(self) -> int:
        return ROW_GROUP_ROWS if self._how.outputs.is_per_window else self._rows_per_group

    def _tables(self, records: range) -> Iterator[tuple[pa.Table, int]]:
        """The dataset's rows of some records, and how many records they are, a row group at a time.

        The vectors of several blocks are read together: an output is then read in few and long stretches.
        """
        waiting: list[pa.RecordBatch] = []
        num_bytes = 0
        for block in self._blocks(records):
            waiting.append(block)
            num_bytes += 4 * self._windows.dimension * self._windows.count_rows(_keys([block]))
            if num_bytes >= self._bytes_at_once:
                yield from self._with_vectors(waiting)
                waiting, num_bytes = [], 0
        yield from self._with_vectors(waiting)

    def _with_vectors(self, blocks: list[pa.RecordBatch]) -> Iterator[tuple[pa.Table, int]]:
        how = self._how
        find = self._windows.read if how.holds_vectors else self._windows.without_vectors
        windows = find(_keys(blocks))
        for block in blocks:
            rows = by_window(block, how.max_residues, how.stride) if how.outputs.is_per_window else block
            yield dataset_table(rows, records_to_rows(rows["windows"], windows, how), self._schema), len(block)

    def _blocks(self, records: range) -> Iterator[pa.RecordBatch]:
        """Some of the records, a row group of the dataset at a time."""
        ends = np.cumsum(self._groups)
        waiting: list[pa.RecordBatch] = []
        with patiently(lambda: files.storage.open_to_read(self._records), self._records) as file:
            parquet = pq.ParquetFile(file)
            for number in range(int(np.searchsorted(ends, records.start, side="right")), len(ends)):
                first = int(ends[number]) - self._groups[number]
                if first >= records.stop:
                    break
                table = parquet.read_row_group(number, columns=list(RECORD_COLUMNS))
                start = max(records.start - first, 0)
                waiting += table.slice(start, records.stop - first - start).to_batches()
                whole = pa.Table.from_batches(waiting)
                num_whole = len(whole) // self._rows_per_group * self._rows_per_group
                yield from (
                    _one(whole.slice(at, self._rows_per_group)) for at in range(0, num_whole, self._rows_per_group)
                )
                waiting = whole.slice(num_whole).to_batches()
        if waiting:
            yield _one(pa.Table.from_batches(waiting))

    def _vectors_per_record(self) -> int:
        """On average, at least one."""
        windows = self._windows
        if self._how.outputs.is_per_window:
            return max(1, windows.num_windows // max(self._num_records, 1))
        return max(1, windows.num_rows // max(windows.num_windows, 1)) if windows.is_per_token else 1

    def _parquet_writer(self, file: Hashed) -> pq.ParquetWriter:
        names = self._schema.names
        paths = ("list.element", "list.element.list.element")
        return parquet_writer(
            file,
            self._schema,
            compression={column: "none" if column in self._vectors_of else "zstd" for column in names}
            | {f"{name}.{path}": "none" for name in self._vectors_of if name in names for path in paths}
            | {f"{name}.{paths[0]}": "zstd" for name in names if name == "windows"},
            use_dictionary=["status", "reason"],
            write_statistics=["ordinal"],
            data_page_size=PAGE_BYTES,
        )


def _one(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


def _keys(blocks: list[pa.RecordBatch]) -> NDArray[np.int64]:
    """Of the windows that these records have, each once, ascending."""
    keys = np.concatenate([np.zeros(0, np.int64), *(block["windows"].flatten().to_numpy() for block in blocks)])
    keys.sort(kind="stable")  # they are nearly so; np.unique would hash them
    is_first = np.concatenate((keys[:1] == keys[:1], keys[1:] != keys[:-1]))
    first: NDArray[np.int64] = keys[is_first]
    return first


def _statuses(table: pa.Table) -> Counter[str]:
    """Each record's status once; failed where a window of it has."""
    if "start" not in table.schema.names:
        counts = pc.value_counts(pa.concat_arrays(table["status"].chunks))
        return Counter({str(each["values"]): int(each["counts"].as_py()) for each in counts})
    of_record: dict[int, str] = {}
    for ordinal, status in zip(table["ordinal"].to_pylist(), table["status"].to_pylist(), strict=True):
        if of_record.get(ordinal) != "failed":
            of_record[ordinal] = status
    return Counter(of_record.values())
