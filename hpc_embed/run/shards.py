"""Shard files: the windows that one task embeds."""

from __future__ import annotations

import errno
import hashlib
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


def write_shard(path: Path, windows_N: NDArray[np.int64], sequences_N: Sequence[bytes] | pa.LargeBinaryArray) -> str:
    """Publish one shard file; the digest of its keys and letters, however Parquet's writer packs them."""
    if isinstance(sequences_N, Sequence):
        sequences_N = pa.array(sequences_N, pa.large_binary())
    table = pa.table([pa.array(windows_N), sequences_N], schema=SCHEMA)
    files.write_whole(
        path,
        lambda file: write_parquet(file, table, compression="snappy", use_dictionary=False, write_statistics=False),
    )
    return _digest_of(windows_N, sequences_N)


def _digest_of(windows_N: NDArray[np.int64], sequences_N: pa.LargeBinaryArray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(windows_N, dtype="<i8").data)
    _, offsets, letters = sequences_N.buffers()
    edges = np.frombuffer(offsets, dtype="<i8")[sequences_N.offset : sequences_N.offset + len(sequences_N) + 1]
    digest.update(np.diff(edges).data)
    if letters is not None:
        digest.update(memoryview(letters)[edges[0] : edges[-1]])
    return digest.hexdigest()


MADE_ANEW = "`hpc-embed plan` with the same input and settings makes it anew."


def read_shard(path: Path, sha256: str = "") -> Shard:
    """The windows of a shard, proven by their digest; one of a plan without digests is taken as it is.

    Raises RunConflict where the file is missing or damaged, EnvironmentFault where it cannot be read for now.
    """
    windows_N, sequences_N = _proven(path, sha256)
    return Shard(windows_N, sequences_N.to_pylist())


def is_shard_whole(path: Path, sha256: str) -> bool:
    """True where `read_shard` would give it; EnvironmentFault where the storage does not for now."""
    try:
        _proven(path, sha256)
    except RunConflict:
        return False
    return True


def _proven(path: Path, sha256: str) -> tuple[NDArray[np.int64], pa.LargeBinaryArray]:
    try:
        return patiently(lambda: _read(path, sha256), path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunConflict(f"{path}: no such shard file.", remedy=MADE_ANEW) from error
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        if is_passing(error) or (isinstance(error, OSError) and error.errno not in (None, errno.EISDIR)):
            raise  # it says nothing about the content
        raise RunConflict(f"{path}: damaged ({reason(error)}).", remedy=MADE_ANEW) from error


def _read(path: Path, sha256: str) -> tuple[NDArray[np.int64], pa.LargeBinaryArray]:
    with files.storage.open_to_read(path) as file:
        table = pq.read_table(file, columns=SCHEMA.names).cast(SCHEMA)
    if table.column("window").null_count or table.column("sequence").null_count:
        raise ValueError("a window without key or sequence")
    windows_N, sequences_N = table["window"].to_numpy(), pa.concat_arrays(table["sequence"].chunks)
    if sha256 and _digest_of(windows_N, sequences_N) != sha256:
        raise ValueError("its checksum is not the plan's")
    return windows_N, sequences_N
