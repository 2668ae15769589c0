"""shards.parquet: what each shard of a plan holds, read a thousand rows at a time by those who need a few.

plan.json has a digest of each thousand, so that a task proves the rows that it reads and no others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import islice
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
    sha256: str = ""
    """Of the keys and letters in the shard file; empty in a plan of a version that wrote none."""


NUMBERS = ("num_windows", "num_residues", "num_tokens", "flops")
DIGEST = "sha256"


class ShardTable(Sequence[ShardFacts]):
    """The rows of shards.parquet; nothing is read before it is asked for."""

    def __init__(self, path: Path, num_shards: int, digests: Sequence[str] = ()) -> None:
        """`digests`: of each thousand rows, as `write_shard_table` gave them; none where the plan has none."""
        self._path = path
        self._num_shards = num_shards
        self._digests = tuple(digests)
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

    def is_of(self, shards: Sequence[ShardFacts]) -> bool:
        """True where these are the rows that it had, as far as the plan's digests tell."""
        return len(shards) == len(self) and self._digests in ((), digests_of(shards))

    def _read(self, groups: Sequence[int]) -> None:
        try:
            found = patiently(lambda: _read_groups(self._path, self._num_shards, groups), self._path)
            if self._digests and any(digest_of_rows(rows) != self._digests[group] for group, rows in found.items()):
                raise ValueError("its checksum is not the plan's")
        except (OSError, pa.ArrowException, ValueError, KeyError, IndexError) as error:
            raise RunConflict(
                f"{self._path}: not the shard table of this plan ({reason(error)}).",
                remedy="`hpc-embed plan` with the same input and settings makes it anew.",
            ) from error
        self._rows |= found


def _read_groups(path: Path, num_shards: int, groups: Sequence[int]) -> dict[int, list[ShardFacts]]:
    with files.storage.open_to_read(path) as content, pq.ParquetFile(content) as file:
        if file.metadata.num_rows != num_shards:
            raise ValueError(f"{file.metadata.num_rows} shards instead of {num_shards}")
        digest = {DIGEST} & {*file.schema_arrow.names}
        tables = [file.read_row_group(group, columns=[*NUMBERS, *digest]) for group in groups]
    if any(
        table.column(name).null_count or (pc.min(table.column(name)).as_py() or 0) < 0
        for table in tables
        for name in NUMBERS
    ):
        raise ValueError("a number below 0")
    return {
        group: [ShardFacts(**row) for row in table.to_pylist()] for group, table in zip(groups, tables, strict=True)
    }


def digest_of_rows(rows: Sequence[ShardFacts]) -> str:
    """SHA-256 of what some rows say, however they are written."""
    return hashlib.sha256("\n".join(" ".join(map(str, astuple(row))) for row in rows).encode("utf-8")).hexdigest()


def digests_of(shards: Sequence[ShardFacts]) -> tuple[str, ...]:
    """Of each thousand rows."""
    rows = iter(shards)
    return tuple(digest_of_rows([*islice(rows, ROWS_AT_ONCE)]) for _ in range(0, len(shards), ROWS_AT_ONCE))


def write_shard_table(path: Path, shards: Sequence[ShardFacts]) -> tuple[str, ...]:
    """Publish shards.parquet, equal tables as equal bytes; the digests of each thousand rows."""
    numbers = np.array([astuple(shard)[: len(NUMBERS)] for shard in shards], dtype=np.int64).reshape(-1, len(NUMBERS))
    columns = [pa.array(np.ascontiguousarray(numbers_S)) for numbers_S in numbers.T]
    digests = pa.array([shard.sha256 for shard in shards], pa.string())
    table = pa.table([*columns, digests], names=[*NUMBERS, DIGEST])

    def write(file: BinaryIO) -> None:
        write_parquet(file, table, ROWS_AT_ONCE, compression="zstd", use_dictionary=False, write_statistics=False)

    files.write_whole(path, write)
    return digests_of(shards)
