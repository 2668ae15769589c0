"""Every marker and every row checked, and the vectors brought into the order of their windows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hpc_embed.progress import Counting
from hpc_embed.run.files import sha256_of_file, temporary_sibling
from hpc_embed.run.layout import RunLayout, shard_name
from hpc_embed.run.markers import Marker, read_failure, read_marker, withdraw
from hpc_embed.run.plan import Plan
from hpc_embed.run.vectors import VectorFile

MEBIBYTE = 1 << 20


@dataclass
class WindowVectors:
    """The vectors of all U windows, by key."""

    vectors_UD: NDArray[np.float32]
    num_tokens_U: NDArray[np.int32]
    """0 where there is no vector."""
    failed: dict[int, str] = field(default_factory=dict)
    """Reason by key."""
    markers: list[Marker] = field(default_factory=list)


class BadOutput(Exception):
    """An output that is not what its marker says."""


@contextmanager
def room_for_vectors(plan: Plan, layout: RunLayout, memory_mebibytes: int) -> Iterator[WindowVectors]:
    """Room in memory, or beyond `memory_mebibytes` in a scratch file that goes away afterwards."""
    shape = (plan.totals.num_unique_windows, plan.dimension)
    num_tokens_U = np.zeros(shape[0], dtype=np.int32)
    if 4 * shape[0] * shape[1] <= memory_mebibytes * MEBIBYTE:
        yield WindowVectors(np.empty(shape, dtype=np.float32), num_tokens_U)
        return
    scratch = temporary_sibling(layout.root / "gathering")
    try:
        yield WindowVectors(np.memmap(scratch, dtype=np.float32, mode="w+", shape=shape), num_tokens_U)
    finally:
        scratch.unlink(missing_ok=True)


def collect(plan: Plan, layout: RunLayout, into: WindowVectors, count: Counting) -> dict[str, str]:
    """Check every output and take its vectors; the problem of each shard that has one.

    An output that proves false is withdrawn, so that its shard is done again.
    """
    problems: dict[str, str] = {}
    for index, facts in enumerate(plan.shards):
        name = shard_name(index)
        marker = read_marker(layout.outputs, name)
        if marker is None or marker.fingerprint != plan.fingerprint:
            problems[name] = _why_missing(layout.outputs, name)
            continue
        try:
            _check_and_take(layout.output(index), marker, facts.num_windows, into)
        except (BadOutput, OSError, pa.ArrowException, ValueError, KeyError) as error:
            withdraw(layout.outputs, name)
            problems[name] = f"output was damaged and is withdrawn ({str(error).splitlines()[0]})"
            continue
        into.markers.append(marker)
        count.advance(facts.num_windows)
    return problems


def _why_missing(outputs: Path, name: str) -> str:
    failure = read_failure(outputs, name)
    return f"failed {failure.tries} times: {failure.reason}" if failure else "not done yet"


def _check_and_take(path: Path, marker: Marker, num_windows: int, into: WindowVectors) -> None:
    if sha256_of_file(path) != marker.sha256:
        raise BadOutput("the checksum differs from the marker's")
    if marker.rows + len(marker.failed_windows) != num_windows:
        raise BadOutput(f"{marker.rows} rows for {num_windows} windows")
    file = VectorFile(path)
    if file.num_rows != marker.rows or file.dimension != into.vectors_UD.shape[1]:
        raise BadOutput(f"{file.num_rows} rows of dimension {file.dimension}")
    for rows in file:
        if len(rows.windows_N) and not 0 <= rows.windows_N.min() <= rows.windows_N.max() < len(into.num_tokens_U):
            raise BadOutput("a window that the plan does not have")
        if into.num_tokens_U[rows.windows_N].any() or len(np.unique(rows.windows_N)) != len(rows.windows_N):
            raise BadOutput("a window that occurs twice")
        if not np.isfinite(rows.vectors_ND).all():
            raise BadOutput("NaN or infinity")
        if (rows.num_tokens_N <= 0).any():
            raise BadOutput("a vector of no tokens")
        into.vectors_UD[rows.windows_N] = rows.vectors_ND
        into.num_tokens_U[rows.windows_N] = rows.num_tokens_N
    into.failed.update({int(key): reason for key, reason in marker.failed_windows.items()})
