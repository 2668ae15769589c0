"""shards.parquet: what each shard of a plan holds, read a thousand rows at a time by those who need a few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hpc_embed.errors import RunConflict
from hpc_embed.run import files
from hpc_embed.run.faults import patiently, reason
from hpc_embed.run.parquet import write_parquet

ROWS_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class ShardFacts:
    """One row of the shard table."""

    num_windows: int
    num_residues: int
    num_tokens: int
    flops: int


COLUMNS = tuple(ShardFacts.__dataclass_fields__)
SCHEMA = pa.schema([(name, pa.int64()) for name in COLUMNS])


class ShardTable(Sequence[ShardFacts]):
    """The rows of shards.parquet; nothing is read before it is asked for."""

    def __init__(self, path: Path, num_shards: int) -> None:
        self._path = path
        self._num_shards = num_shards
        self._rows: dict[int, list[ShardFacts]] = {}

    def __len__(self) -> int:
        return self._num_shards

    @overload
    def __getitem__(self, index: int) -> ShardFacts: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ShardFacts]: ...
    def __getitem__(self, index: int | slice) -> ShardFacts | Sequence[ShardFacts]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        group, row = divmod(index % len(self), ROWS_AT_ONCE)
        if group not in self._rows:
            self._read([group])
        return self._rows[group][row]

    def __iter__(self) -> Iterator[ShardFacts]:
        num_groups = -(-len(self) // ROWS_AT_ONCE)
        if missing := [group for group in range(num_groups) if group not in self._rows]:
            self._read(missing)
        for group in range(num_groups):
            yield from self._rows[group]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(ShardFacts.__eq__, self, other))

    def __hash__(self) -> int:
        return hash((self._path, self._num_shards))

    def _read(self, groups: Sequence[int]) -> None:
        try:
            self._rows |= patiently(lambda: _read_groups(self._path, self._num_shards, groups), self._path)
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            raise RunConflict(
                f"{self._path}: not the shard table of this plan ({reason(error)}).",
                remedy="Restore the file, or delete plan.json and run `hpc-embed plan` again.",
            ) from error


def _read_groups(path: Path, num_shards: int, groups: Sequence[int]) -> dict[int, list[ShardFacts]]:
    with files.storage.open_to_read(path) as content, pq.ParquetFile(content) as file:
        if file.metadata.num_rows != num_shards:
            raise ValueError(f"{file.metadata.num_rows} shards instead of {num_shards}")
        tables = [file.read_row_group(group, columns=list(COLUMNS)) for group in groups]
    if any(
        table.column(name).null_count or (pc.min(table.column(name)).as_py() or 0) < 0
        for table in tables
        for name in COLUMNS
    ):
        raise ValueError("a number below 0")
    return {
        group: [ShardFacts(**row) for row in table.to_pylist()] for group, table in zip(groups, tables, strict=True)
    }


def write_shard_table(path: Path, shards: Sequence[ShardFacts]) -> None:
    """Publish shards.parquet; equal tables are equal bytes."""
    rows = np.array([astuple(shard) for shard in shards], dtype=np.int64).reshape(-1, len(COLUMNS))
    table = pa.Table.from_arrays([pa.array(np.ascontiguousarray(column)) for column in rows.T], schema=SCHEMA)

    def write(file: BinaryIO) -> None:
        write_parquet(file, table, ROWS_AT_ONCE, compression="zstd", write_statistics=False)

    files.write_whole(path, write)
