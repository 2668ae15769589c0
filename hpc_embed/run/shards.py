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
from hpc_embed.run.files import whole_file

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
    with whole_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", use_dictionary=False, write_statistics=False)


def read_shard(path: Path) -> Shard:
    """The windows of a shard; RunConflict where the file is missing or damaged."""
    try:
        table = pq.read_table(path, schema=SCHEMA, partitioning=None)
        return Shard(table["window"].to_numpy(), table["sequence"].to_pylist())
    except FileNotFoundError as error:
        raise RunConflict(f"{path}: no such shard file.", remedy="Run `hpc-embed plan` again.") from error
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise RunConflict(
            f"{path}: damaged ({reason}).", remedy="Delete plan.json and run `hpc-embed plan` again."
        ) from error
