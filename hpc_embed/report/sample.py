"""A sample of the dataset's vectors, always the same of the same dataset."""

# N = rows of the sample, D = numbers of a vector, R = vectors of all its tokens

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_embed.reading.dataset import Batch, Dataset, RowGroup
from hpc_embed.reading.index import Column
from hpc_embed.report.records import describe_records
from hpc_embed.run.layout import RunLayout

MOST_ROWS = 2000
MOST_BYTES = 256 << 20
"""Read from storage; a row group alone may be more."""
SEED = 0


class Row(NamedTuple):
    """A record, or one of its windows where these stay apart."""

    id: str
    name: str
    """The id, and the place of a window."""
    description: str
    length: int
    source: int


class Sample(NamedTuple):
    """Rows and their vectors."""

    column: str
    is_mean_of_tokens: bool
    rows_N: list[Row]
    vectors_ND: NDArray[np.float32]


def draw_sample(layout: RunLayout) -> Sample:
    """From the first pooled column, or the mean over a record's rows where there is none.

    Whole row groups are read, a drawn few where all are too many: memory is that of one.
    """
    dataset = Dataset(layout)
    column = min(dataset.columns.values(), key=lambda column: column.is_per_token)  # the first of the pooled
    draw = np.random.default_rng(SEED)
    groups = _affordable(dataset, column, draw)
    share = MOST_ROWS / max(sum(len(group.rows) for group in groups), 1)
    num_passed = 0
    rows: list[_Row] = []
    vectors: list[NDArray[np.float32]] = [np.empty((0, column.dimension), dtype=np.float32)]
    for group in groups:
        most = round((num_passed + len(group.rows)) * share) - round(num_passed * share)
        num_passed += len(group.rows)
        batch = dataset.batch(group.rows, [column.name])
        vectors_RD = _mean_of_tokens(batch, column.name) if column.is_per_token else batch.columns[column.name]
        has_vector_N = np.flatnonzero(batch.has_vector_N)
        chosen_n = np.sort(draw.permutation(len(has_vector_N))[:most])
        chosen_n = chosen_n[np.isfinite(vectors_RD[chosen_n]).all(axis=1)]
        rows += [_row(batch, at) for at in has_vector_N[chosen_n].tolist()]
        vectors.append(vectors_RD[chosen_n].astype(np.float32))
    descriptions = describe_records(layout.records, [row.ordinal for row in rows])
    rows_N = [
        Row(row.id, row.name, text.removeprefix(row.id).strip(), row.length, source)
        for row, (text, source) in zip(rows, descriptions, strict=True)
    ]
    return Sample(column.name, column.is_per_token, rows_N, np.concatenate(vectors))


class _Row(NamedTuple):
    ordinal: int
    id: str
    name: str
    length: int


def _row(batch: Batch, at: int) -> _Row:
    name = batch.ids_N[at]
    if batch.starts_N is not None and batch.stops_N is not None:
        name = f"{name} [{batch.starts_N[at]}, {batch.stops_N[at]})"
    return _Row(int(batch.ordinals_N[at]), batch.ids_N[at], name, int(batch.lengths_N[at]))


def _affordable(dataset: Dataset, column: Column, draw: np.random.Generator) -> list[RowGroup]:
    groups = dataset.row_groups
    vector_bytes = column.dimension * column.dtype.itemsize
    order = draw.permutation(len(groups))
    counts = [groups[at].num_tokens if column.is_per_token else groups[at].num_vectors for at in order]
    before = vector_bytes * np.cumsum([0, *counts])[:-1]
    return [groups[at] for at in sorted(order[(before < MOST_BYTES) & (np.arange(len(order)) < MOST_ROWS)])]


def _mean_of_tokens(batch: Batch, column: str) -> NDArray[np.floating]:
    counts_R = batch.num_tokens_N[batch.has_vector_N]
    if not len(counts_R):
        return batch.columns[column]
    tokens_TD = batch.columns[column].astype(np.float32)
    sums_RD: NDArray[np.float32] = np.add.reduceat(tokens_TD, np.cumsum(counts_R) - counts_R)
    return np.asarray(sums_RD / counts_R[:, None], dtype=np.float32)
