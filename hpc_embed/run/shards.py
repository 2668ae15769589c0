"""Shard files: the windows that one task embeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hpc_embed.errors import RunConflict
from hpc_embed.run import files
from hpc_embed.run.faults import is_passing, patiently, reason
from hpc_embed.run.parquet import write_parquet

SCHEMA = pa.schema([("window", pa.int64()), ("sequence", pa.large_binary())])


class Shard(NamedTuple):
    """Windows in ascending key order."""

    windows_N: NDArray[np.int64]
    """Keys."""
    sequences_N: list[bytes]


def write_shard(path: Path, windows_N: NDArray[np.int64], sequences_N: Sequence[bytes] | pa.LargeBinaryArray) -> None:
    """Publish one shard file."""
    if isinstance(sequences_N, Sequence):
        sequences_N = pa.array(sequences_N, pa.large_binary())
    table = pa.table([pa.array(windows_N), sequences_N], schema=SCHEMA)
    files.write_whole(
        path,
        lambda file: write_parquet(file, table, compression="snappy", use_dictionary=False, write_statistics=False),
    )


def read_shard(path: Path) -> Shard:
    """The windows of a shard.

    Raises RunConflict where the file is missing or damaged, EnvironmentFault where it cannot be read for now.
    """
    try:
        return patiently(lambda: _read(path), path)
    except FileNotFoundError as error:
        raise RunConflict(f"{path}: no such shard file.", remedy="Run `hpc-embed plan` again.") from error
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        if is_passing(error) or (isinstance(error, OSError) and error.errno is not None):
            raise  # it says nothing about the content
        raise RunConflict(
            f"{path}: damaged ({reason(error)}).", remedy="Delete plan.json and run `hpc-embed plan` again."
        ) from error


def _read(path: Path) -> Shard:
    with files.storage.open_to_read(path) as file:
        table = pq.read_table(file, columns=SCHEMA.names).cast(SCHEMA)
    shard = Shard(table["window"].to_numpy(), table["sequence"].to_pylist())
    if table.column("window").null_count or table.column("sequence").null_count:
        raise ValueError("a window without key or sequence")
    return shard
