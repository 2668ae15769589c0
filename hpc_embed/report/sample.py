"""A sample of the dataset's vectors, always the same of the same dataset."""

# N = rows of the sample, D = numbers of a vector, R = vectors of all its tokens

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hpc_embed.report.records import Group, describe_records, opened, read_groups, row_groups
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
    parts = sorted(layout.dataset.glob("part-*.parquet"))
    with opened(parts[0]) as file:
        schema = file.schema_arrow
    column = _column(schema)
    is_per_token = pa.types.is_large_list(schema.field(column).type)
    columns = [name for name in ("ordinal", "id", "length", "start", "stop") if name in schema.names]
    draw = np.random.default_rng(SEED)
    groups = _affordable(row_groups(parts, [column]), draw)
    share = MOST_ROWS / max(sum(group.num_rows for group in groups), 1)
    tables, vectors, num_passed = [], [], 0
    for table in read_groups(groups, [*columns, column]):
        most = round((num_passed + len(table)) * share) - round(num_passed * share)
        num_passed += len(table)
        has_vector_N = np.flatnonzero(~np.asarray(pa.concat_arrays(table[column].chunks).is_null()))
        chosen_N = np.sort(draw.permutation(has_vector_N)[:most])
        taken = table.take(chosen_N)
        vectors.append(_vectors(taken[column], is_per_token=is_per_token))
        tables.append(taken.select(columns))
    vectors_ND = np.concatenate(vectors)
    is_finite_N = np.isfinite(vectors_ND).all(axis=1)
    chosen = pa.concat_tables(tables).filter(pa.array(is_finite_N))
    return Sample(column, is_per_token, _rows(layout, chosen), vectors_ND[is_finite_N])


def _column(schema: pa.Schema) -> str:
    columns = [name for name in schema.names if name.startswith("embedding")]
    pooled = [name for name in columns if not pa.types.is_large_list(schema.field(name).type)]
    return str([*pooled, *columns][0])


def _affordable(groups: Sequence[Group], draw: np.random.Generator) -> list[Group]:
    order = draw.permutation(len(groups))
    before = np.cumsum([0, *(groups[at].num_bytes for at in order)])[:-1]
    return [groups[at] for at in sorted(order[(before < MOST_BYTES) & (np.arange(len(order)) < MOST_ROWS)])]


def _vectors(column: pa.ChunkedArray, *, is_per_token: bool) -> NDArray[np.float32]:
    array = pa.concat_arrays(column.chunks)
    numbers = array.flatten().flatten() if is_per_token else array.flatten()
    kind = array.type.value_type if is_per_token else array.type
    vectors_RD = np.asarray(numbers).astype(np.float32).reshape(-1, kind.list_size)
    if not is_per_token or not len(array):
        return vectors_RD
    counts_N = np.asarray(array.value_lengths())
    sums_ND: NDArray[np.float32] = np.add.reduceat(vectors_RD, np.cumsum(counts_N) - counts_N)
    return np.asarray(sums_ND / counts_N[:, None], dtype=np.float32)


def _rows(layout: RunLayout, table: pa.Table) -> list[Row]:
    rows = table.to_pylist()
    descriptions = describe_records(layout.records, [row["ordinal"] for row in rows])
    return [
        Row(row["id"], _name(row), text.removeprefix(row["id"]).strip(), row["length"], source)
        for row, (text, source) in zip(rows, descriptions, strict=True)
    ]


def _name(row: dict[str, object]) -> str:
    return f"{row['id']} [{row['start']}, {row['stop']})" if row.get("start") is not None else str(row["id"])
