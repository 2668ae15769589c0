"""The dataset: one row per record in input order, in Parquet parts that appear together or not at all."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hpc_embed.errors import RunConflict
from hpc_embed.registry import WITH_SPECIAL
from hpc_embed.results.checks import MEBIBYTE, WindowVectors
from hpc_embed.run import files
from hpc_embed.run.faults import patiently
from hpc_embed.run.files import new_file
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.outputs import Outputs
from hpc_embed.run.vectors import METADATA_KEY, ROW_GROUP_ROWS
from hpc_embed.sequences.windows import places

PAGE_BYTES = 1 << 30
"""More than a row group has: its vectors are one page, whose numbers lie side by side (`results.pages`)."""
NUMBERS = {"float32": pa.float32(), "float16": pa.float16()}


class Vectors(NamedTuple):
    """One column's vectors of a block of N records."""

    vectors_RD: NDArray[np.float32]
    num_rows_N: NDArray[np.int64]
    """How many of them each record has, side by side: one, its tokens without pooling, or none."""


class Rows(NamedTuple):
    """What a block of N records has."""

    columns: list[Vectors]
    num_tokens_N: NDArray[np.int64]
    failures: dict[int, str]
    """Reason by place in the block, for records with a window that failed."""


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


class Arrangement(NamedTuple):
    """How the vectors of windows become a dataset."""

    outputs: Outputs
    num_special_tokens: int
    """Of each window."""
    max_residues: int | None
    """Where a truncated record was cut."""
    stride: int | None = None
    """Where windows overlap."""


def find_dataset(where: Path) -> RunLayout:
    """The run that has this dataset, from its folder or from the dataset's own; RunConflict where there is none."""
    for layout in (RunLayout(where), RunLayout(where.resolve().parent)):
        is_meant = where.resolve() in (layout.root.resolve(), layout.dataset.resolve())
        if is_meant and layout.dataset.is_dir() and layout.dataset_facts.is_file():
            return layout
    raise RunConflict(f"{where}: no run folder with a dataset.", remedy="Run `hpc-embed gather` first.")


def dataset_schema(dimension: int, dtype: str, metadata: Mapping[str, object], outputs: Outputs) -> pa.Schema:
    """Columns of the dataset, the vectors of D numbers each; the metadata stand as JSON under `hpc_embed`."""
    vector = pa.list_(pa.field("element", NUMBERS[dtype]), dimension // outputs.width)
    rows = pa.large_list(pa.field("element", vector))
    columns = [
        ("ordinal", pa.int64()),
        ("id", pa.string()),
        *((output.name, rows if output.row is None else vector) for output in outputs.columns),
        ("length", pa.int64()),
        ("num_tokens", pa.int64()),
        ("num_windows", pa.int32()),
        *([("start", pa.int64()), ("stop", pa.int64())] if outputs.is_per_window else []),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
    return pa.schema(columns, metadata={METADATA_KEY: json.dumps(metadata).encode("utf-8")})


def write_parts(
    folder: Path, records: Path, windows: WindowVectors, how: Arrangement, schema: pa.Schema, part_mebibytes: int
) -> Written:
    """Write the parts into `folder`, in input order."""
    vectors_of = [output.name for output in how.outputs.columns]
    width = windows.vectors_RD.shape[1] * _number_type(schema, vectors_of[0]).bit_width // 8
    vectors_per_record = _vectors_per_record(records, windows, how.outputs)
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
                writer = part.enter_context(_part_writer(hashed, schema, vectors_of))
                rows_in_part = 0
            rows = by_window(batch, how.max_residues, how.stride) if how.outputs.is_per_window else batch
            table = _table(rows, records_to_rows(rows["windows"], windows, how), schema)
            statuses.update(_statuses(table))
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS if how.outputs.is_per_window else rows_per_group)
            rows_in_part += len(batch)
    _note_part(parts, hashed, rows_in_part)
    return Written(statuses, parts)


def _note_part(parts: dict[str, Part], hashed: Hashed | None, rows: int) -> None:
    if hashed is not None:
        parts[part_name(len(parts))] = Part(rows, hashed.num_bytes, hashed.digest.hexdigest())


def part_name(index: int) -> str:
    """`part-00003.parquet`."""
    return f"part-{index:05d}.parquet"


def _part_writer(file: Hashed, schema: pa.Schema, vectors_of: Sequence[str]) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        file,
        schema,
        compression={column: "none" if column in vectors_of else "zstd" for column in schema.names}
        | {f"{name}.{path}": "none" for name in vectors_of for path in ("list.element", "list.element.list.element")},
        use_dictionary=["status", "reason"],
        write_statistics=["ordinal"],
        data_page_size=PAGE_BYTES,
    )


def _blocks(records: Path, num_rows: int) -> Iterator[pa.RecordBatch]:
    with patiently(lambda: files.storage.open_to_read(records), records) as file:
        yield from pq.ParquetFile(file).iter_batches(num_rows)


def _vectors_per_record(records: Path, windows: WindowVectors, outputs: Outputs) -> int:
    """On average, at least one."""
    if outputs.is_per_window:
        num_records: int = pq.read_metadata(records).num_rows
        return max(1, len(windows.num_tokens_U) // max(num_records, 1))
    return max(1, windows.num_rows // max(len(windows.num_tokens_U), 1)) if windows.is_per_token else 1


def by_window(batch: pa.RecordBatch, max_residues: int | None, stride: int | None = None) -> pa.RecordBatch:
    """A row for each window of each record, with the place of its residues; one for a record without windows."""
    num_windows_N = batch["windows"].value_lengths().to_numpy()
    record_W = np.repeat(np.arange(len(batch)), np.maximum(num_windows_N, 1))
    first_N = np.cumsum(np.maximum(num_windows_N, 1)) - np.maximum(num_windows_N, 1)
    place_W, number_W = np.arange(len(record_W)) - first_N[record_W], num_windows_N[record_W]
    length_W = batch["length"].to_numpy()[record_W]
    if max_residues is not None:  # one window of a longer record is what was left of it
        length_W = np.where(number_W == 1, np.minimum(length_W, max_residues), length_W)
    has_none_W = number_W == 0
    start_W, stop_W = places(length_W, place_W, np.maximum(number_W, 1), max_residues, stride)
    keys = pa.ListArray.from_arrays(
        pa.array(np.concatenate(([0], np.cumsum(~has_none_W))).astype(np.int32)), batch["windows"].flatten()
    )
    rows = batch.take(pa.array(record_W))
    names = [name for name in batch.schema.names if name != "windows"]
    columns = [*(rows[name] for name in names), keys]
    columns += [pa.array(place, mask=has_none_W) for place in (start_W, stop_W)]
    counts = pa.array(number_W.astype(np.int32))
    return pa.RecordBatch.from_arrays([*columns, counts], names=[*names, "windows", "start", "stop", "num_windows"])


def records_to_rows(keys: pa.ListArray, windows: WindowVectors, how: Arrangement) -> Rows:
    """One vector per record and column from the vectors of its windows: their maximum for `max`, else their mean
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
    dimension = windows.vectors_RD.shape[1] // how.outputs.width
    columns = []
    for output in how.outputs.columns:
        numbers = slice(output.first_number * dimension, (output.first_number + 1) * dimension)
        if output.row is None:
            rows_R = _ranges(first_row_W[has_vector_W], tokens_W[has_vector_W])
            columns.append(Vectors(windows.vectors_RD[rows_R, numbers], num_tokens_N))
            continue
        row_W = first_row_W + output.row + (tokens_W if windows.is_per_token else 0)
        adds_special = output.pooling in WITH_SPECIAL and not how.outputs.counts_special
        weights_W = tokens_W + (how.num_special_tokens if adds_special else 0)
        vectors_RD = _joined(windows.vectors_RD, row_W, numbers, weights_W, output.pooling, lengths_N, has_vector_N)
        columns.append(Vectors(vectors_RD, has_vector_N.astype(np.int64)))
    return Rows(columns, num_tokens_N, failures)


def _joined(
    vectors_RD: NDArray[np.float32],
    row_W: NDArray[np.int64],
    numbers: slice,
    weights_W: NDArray[np.int64],
    pooling: str,
    lengths_N: NDArray[np.int64],
    has_vector_N: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """The vector of each record that has one, from those of its windows."""
    starts_N = np.cumsum(lengths_N) - lengths_N
    made_RD = vectors_RD[row_W[starts_N[has_vector_N]], numbers]
    place_N = np.cumsum(has_vector_N) - 1
    for record in np.flatnonzero(has_vector_N & (lengths_N > 1)):
        span = slice(starts_N[record], starts_N[record] + lengths_N[record])
        vectors_kD = vectors_RD[row_W[span], numbers]
        if pooling == "max":
            made_RD[place_N[record]] = vectors_kD.max(axis=0)
        else:
            made_RD[place_N[record]] = np.average(vectors_kD.astype(np.float64), axis=0, weights=weights_W[span])
    return made_RD


def _statuses(table: pa.Table) -> Iterator[str]:
    """Each record's status once; failed where a window of it has."""
    if "start" not in table.schema.names:
        yield from table["status"].to_pylist()
        return
    of_record: dict[int, str] = {}
    for ordinal, status in zip(table["ordinal"].to_pylist(), table["status"].to_pylist(), strict=True):
        if of_record.get(ordinal) != "failed":
            of_record[ordinal] = status
    yield from of_record.values()


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, … of each range, one after the other."""
    before = np.cumsum(lengths) - lengths
    numbers: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
    return numbers


def _number_type(schema: pa.Schema, name: str) -> pa.DataType:
    kind = schema.field(name).type
    return kind.value_type.value_type if pa.types.is_large_list(kind) else kind.value_type


def _table(batch: pa.RecordBatch, rows: Rows, schema: pa.Schema) -> pa.Table:
    statuses, reasons = batch["status"], batch["reason"]
    if rows.failures:
        statuses = pa.array(["failed" if at in rows.failures else old for at, old in enumerate(statuses.to_pylist())])
        reasons = pa.array([rows.failures.get(at, old) for at, old in enumerate(reasons.to_pylist())])
    made = {"num_tokens": pa.array(rows.num_tokens_N), "status": statuses, "reason": reasons}
    if "num_windows" not in batch.schema.names:
        made["num_windows"] = batch["windows"].value_lengths()
    names = [name for name in schema.names if name.startswith("embedding")]
    made |= {name: embedding_column(rows.columns[at], schema, name) for at, name in enumerate(names)}
    return pa.Table.from_arrays([made[name] if name in made else batch[name] for name in schema.names], schema=schema)


def embedding_column(column: Vectors, schema: pa.Schema, name: str = "embedding") -> pa.Array:
    """The column of vectors, or of lists of vectors, null where a record has none."""
    kind, number = schema.field(name).type, _number_type(schema, name).to_pandas_dtype()
    is_missing_N = pa.array(column.num_rows_N == 0)
    if pa.types.is_large_list(kind):
        flat = pa.array(column.vectors_RD.reshape(-1).astype(number, copy=False))
        vectors = pa.FixedSizeListArray.from_arrays(flat, type=kind.value_type)
        offsets = np.concatenate(([0], np.cumsum(column.num_rows_N)))
        return pa.LargeListArray.from_arrays(pa.array(offsets), vectors, type=kind, mask=is_missing_N)
    vectors_ND = np.zeros((len(column.num_rows_N), column.vectors_RD.shape[1]), dtype=number)
    vectors_ND[column.num_rows_N > 0] = column.vectors_RD
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), type=kind, mask=is_missing_N)
