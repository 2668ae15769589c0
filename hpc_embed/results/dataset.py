"""The dataset: one row per record in input order, from the vectors of its windows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hpc_embed.errors import BadInput, RunConflict
from hpc_embed.model import WITH_SPECIAL
from hpc_embed.results.narrowing import DoesNotHold, narrowed
from hpc_embed.results.windows import WindowVectors
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.outputs import Outputs
from hpc_embed.run.parquet import with_metadata
from hpc_embed.run.rows import ranges
from hpc_embed.sequences.windows import places

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


class Arrangement(NamedTuple):
    """How the vectors of windows become a dataset."""

    outputs: Outputs
    num_special_tokens: int
    """Of each window."""
    max_residues: int | None
    """Where a truncated record was cut."""
    stride: int | None = None
    """Where windows overlap."""
    holds_vectors: bool = True
    """False where they stay in the outputs, and the dataset has the keys of their windows."""


def find_dataset(where: Path) -> RunLayout:
    """The run that has this dataset, from its folder or from the dataset's own; RunConflict where there is none."""
    for layout in (RunLayout(where), RunLayout(where.resolve().parent)):
        is_meant = where.resolve() in (layout.root.resolve(), layout.dataset.resolve())
        if is_meant and layout.dataset.is_dir() and layout.dataset_facts.is_file():
            return layout
    raise RunConflict(f"{where}: no run folder with a dataset.", remedy="Run `hpc-embed gather` first.")


def dataset_schema(
    dimension: int, dtype: str, metadata: Mapping[str, object], outputs: Outputs, *, holds_vectors: bool = True
) -> pa.Schema:
    """Columns of the dataset, the vectors of D numbers each, or the keys of their windows in the outputs; the metadata
    stand as JSON under `hpc_embed`.
    """
    vector = pa.large_list(pa.field("element", NUMBERS[dtype]))
    rows = pa.large_list(pa.field("element", vector))
    columns = [
        ("ordinal", pa.int64()),
        ("id", pa.string()),
        *((output.name, rows if output.row is None else vector) for output in outputs.columns if holds_vectors),
        ("length", pa.int64()),
        ("num_tokens", pa.int64()),
        ("num_windows", pa.int32()),
        ("num_unknown", pa.int64()),
        *([("start", pa.int64()), ("stop", pa.int64())] if outputs.is_per_window else []),
        ("status", pa.string()),
        ("reason", pa.string()),
        *([] if holds_vectors else [("windows", pa.list_(pa.int64()))]),
    ]
    return with_metadata(pa.schema(columns), {**metadata, "dimension": dimension // outputs.width})


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
    place_W = np.searchsorted(windows.keys_K, keys_W)
    record_of_window_W = np.repeat(np.arange(len(keys)), lengths_N)
    tokens_W = windows.num_tokens_K[place_W].astype(np.int64)
    num_tokens_N = np.bincount(record_of_window_W, weights=tokens_W, minlength=len(keys)).astype(np.int64)
    failures = {
        int(record_of_window_W[at]): windows.failed.get(int(keys_W[at]), "no vector")
        for at in np.flatnonzero(tokens_W == 0)
    }
    has_vector_N = lengths_N > 0
    has_vector_N[list(failures)] = False
    num_tokens_N[~has_vector_N] = 0
    first_row_W, has_vector_W = windows.first_row_K[place_W], has_vector_N[record_of_window_W]
    dimension = windows.vectors_RD.shape[1] // how.outputs.width
    columns = []
    for output in how.outputs.columns if how.holds_vectors else ():
        numbers = slice(output.first_number * dimension, (output.first_number + 1) * dimension)
        if output.row is None:
            rows_R = ranges(first_row_W[has_vector_W], tokens_W[has_vector_W])
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


def number_type(schema: pa.Schema, name: str) -> pa.DataType:
    kind = schema.field(name).type
    return kind.value_type.value_type if pa.types.is_nested(kind.value_type) else kind.value_type


def dataset_table(batch: pa.RecordBatch, rows: Rows, schema: pa.Schema) -> pa.Table:
    """Records, and what they have, as the dataset's schema wants them.

    Raises BadInput, naming the record, for a vector that the schema's numbers do not hold.
    """
    statuses, reasons = batch["status"], batch["reason"]
    if rows.failures:
        statuses = pa.array(["failed" if at in rows.failures else old for at, old in enumerate(statuses.to_pylist())])
        reasons = pa.array([rows.failures.get(at, old) for at, old in enumerate(reasons.to_pylist())])
    made = {"num_tokens": pa.array(rows.num_tokens_N), "status": statuses, "reason": reasons}
    if "num_windows" not in batch.schema.names:
        made["num_windows"] = batch["windows"].value_lengths()
    names = [name for name in schema.names if name.startswith("embedding")]
    made |= {name: _embeddings_of(batch, rows.columns[at], schema, name) for at, name in enumerate(names)}
    if "windows" in schema.names:
        made["windows"] = batch["windows"].cast(schema.field("windows").type)
    return pa.Table.from_arrays([made[name] if name in made else batch[name] for name in schema.names], schema=schema)


def _embeddings_of(batch: pa.RecordBatch, column: Vectors, schema: pa.Schema, name: str) -> pa.Array:
    try:
        return embedding_column(column, schema, name)
    except DoesNotHold as error:
        at = int(np.searchsorted(np.cumsum(column.num_rows_N), error.row, side="right"))
        raise BadInput(
            f"record {batch['id'][at]} (ordinal {batch['ordinal'][at]}), {name}: {error}.",
            remedy="Gather with --dtype float32.",
        ) from error


def embedding_column(column: Vectors, schema: pa.Schema, name: str = "embedding") -> pa.Array:
    """The column of vectors, or of lists of vectors, null where a record has none; DoesNotHold as in `narrowed`."""
    kind, vectors_RD = schema.field(name).type, column.vectors_RD
    flat = pa.array(narrowed(vectors_RD, number_type(schema, name).to_pandas_dtype()).reshape(-1))
    is_missing_N, stops_N = pa.array(column.num_rows_N == 0), np.cumsum(column.num_rows_N)
    num_rows, dimension = vectors_RD.shape
    if pa.types.is_nested(kind.value_type):
        vectors = pa.LargeListArray.from_arrays(pa.array(np.arange(num_rows + 1) * dimension), flat, kind.value_type)
        return pa.LargeListArray.from_arrays(pa.array(np.append(0, stops_N)), vectors, kind, mask=is_missing_N)
    return pa.LargeListArray.from_arrays(pa.array(np.append(0, stops_N) * dimension), flat, kind, mask=is_missing_N)
