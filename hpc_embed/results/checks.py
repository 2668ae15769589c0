"""Every marker and every row checked, and the vectors brought into the order of their windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_embed.errors import EnvironmentFault
from hpc_embed.progress import Counting
from hpc_embed.registry import PER_TOKEN
from hpc_embed.run.canary import Canary, odd_ones
from hpc_embed.run.faults import patiently
from hpc_embed.run.files import discard, sha256_of_file, temporary_sibling
from hpc_embed.run.layout import RunLayout, shard_name
from hpc_embed.run.markers import Judged, Marker, judge, read_failure, read_marker, withdraw
from hpc_embed.run.plan import Plan
from hpc_embed.run.vectors import Damaged, VectorFile

MEBIBYTE = 1 << 20
MOST_UNREADABLE = 5
"""After so many the storage is not worth asking, each time with all patience."""


@dataclass
class WindowVectors:
    """The vectors of all U windows."""

    vectors_RD: NDArray[np.float32]
    """R rows, as many as the outputs have, each window's side by side."""
    first_row_U: NDArray[np.int64]
    """The first row of each window, by key."""
    num_tokens_U: NDArray[np.int32]
    """0 where there is no vector."""
    is_per_token: bool
    """A row for each token of a window, and not one for each window."""
    num_rows: int = 0
    """Rows taken so far."""
    failed: dict[int, str] = field(default_factory=dict)
    """Reason by key."""
    markers: list[Marker] = field(default_factory=list)


class BadOutput(Exception):
    """An output that is proven not to be what its marker says: all of it was read."""


@dataclass
class Problems:
    """Why shards have no vectors yet, by shard."""

    missing: dict[str, str] = field(default_factory=dict)
    """To be embedded, or embedded again."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """There, but the storage does not give them out for now."""


@contextmanager
def room_for_vectors(plan: Plan, layout: RunLayout, memory_mebibytes: int) -> Iterator[WindowVectors]:
    """Room in memory, or beyond `memory_mebibytes` in a scratch file that goes away afterwards."""
    num_windows = plan.totals.num_unique_windows
    is_per_token = plan.embedding.pooling == PER_TOKEN
    markers = (read_marker(layout.outputs, shard_name(index)) for index in range(len(plan.shards)))
    num_rows = sum(marker.rows for marker in markers if marker is not None) if is_per_token else num_windows
    shape = (num_rows, plan.dimension)
    first_row_U, num_tokens_U = np.zeros(num_windows, dtype=np.int64), np.zeros(num_windows, dtype=np.int32)
    if 4 * shape[0] * shape[1] <= memory_mebibytes * MEBIBYTE:
        yield WindowVectors(np.empty(shape, dtype=np.float32), first_row_U, num_tokens_U, is_per_token)
        return
    scratch = temporary_sibling(layout.root / "gathering")
    try:
        vectors_RD = np.memmap(scratch, dtype=np.float32, mode="w+", shape=shape)
        yield WindowVectors(vectors_RD, first_row_U, num_tokens_U, is_per_token)
    finally:
        discard(scratch)


def collect(plan: Plan, layout: RunLayout, into: WindowVectors, count: Counting) -> Problems:
    """Check every output and take its vectors; the problem of each shard that has one.

    An output that proves false is withdrawn, so that its shard is done again. One that cannot be read for now
    is kept.
    """
    problems = Problems()
    for index, facts in enumerate(plan.shards):
        name = shard_name(index)
        try:
            taken = _take_shard(plan, layout, index, into)
        except EnvironmentFault as fault:
            problems.unreadable[name] = fault.message
            if len(problems.unreadable) == MOST_UNREADABLE:
                break
            continue
        if isinstance(taken, str):
            problems.missing[name] = taken
            continue
        into.markers.append(taken)
        count.advance(facts.num_windows)
    return problems


def _take_shard(plan: Plan, layout: RunLayout, index: int, into: WindowVectors) -> Marker | str:
    """The marker of a shard whose vectors were taken, or why they were not."""
    name = shard_name(index)
    try:
        judged = patiently(lambda: judge(layout.outputs, name), layout.output(index))
    except (FileNotFoundError, NotADirectoryError):
        return _why_missing(layout.outputs, name)
    marker = read_marker(layout.outputs, name)
    if marker is None or marker.fingerprint != plan.fingerprint:
        return _why_missing(layout.outputs, name)
    if into.num_rows + marker.rows > len(into.vectors_RD):
        return "finished while the others were gathered"
    num_windows = plan.shards[index].num_windows
    try:
        patiently(lambda: _check_and_take(layout.output(index), marker, num_windows, into), layout.output(index))
    except FileNotFoundError:
        return _why_missing(layout.outputs, name)
    except (BadOutput, Damaged) as error:
        if _has_changed(layout, name, judged):
            return "published anew while it was gathered"
        withdraw(layout.outputs, name, judged)
        return f"output was damaged and is withdrawn ({error})"
    return marker


def withdraw_odd(layout: RunLayout, markers: Sequence[Marker]) -> dict[str, str]:
    """Withdraw what devices embedded whose canary lies beyond the bound from the others'; the reason by shard."""
    canaries = [Canary(marker.facts.precision, marker.facts.canary) for marker in markers]
    problems: dict[str, str] = {}
    for place, distance in odd_ones(canaries).items():
        shard, facts = markers[place].shard, markers[place].facts
        problems[shard] = (
            f"is withdrawn: {facts.device} of {facts.process} computes wrongly, its canary is {distance:.0%} off"
        )
        with suppress(FileNotFoundError):  # a twin was faster
            judged = patiently(lambda shard=shard: judge(layout.outputs, shard), layout.outputs)  # type: ignore[misc]
            withdraw(layout.outputs, shard, judged)
    return problems


def _has_changed(layout: RunLayout, name: str, judged: Judged) -> bool:
    """True where a twin has published since: what was read may be half of each."""
    try:
        now = patiently(lambda: judge(layout.outputs, name), layout.outputs)
    except FileNotFoundError:
        return True
    return any(
        (one.st_ino, one.st_mtime_ns, one.st_size) != (other.st_ino, other.st_mtime_ns, other.st_size)
        for one, other in zip(now, judged, strict=True)
    )


def _why_missing(outputs: Path, name: str) -> str:
    failure = read_failure(outputs, name)
    return f"failed {failure.tries} times: {failure.reason}" if failure else "not done yet"


def _check_and_take(path: Path, marker: Marker, num_windows: int, into: WindowVectors) -> None:
    if sha256_of_file(path) != marker.sha256:
        raise BadOutput("the checksum differs from the marker's")
    file = VectorFile(path)  # these are the bytes that the worker wrote: what is wrong with them now is proven
    if file.num_rows != marker.rows or file.dimension != into.vectors_RD.shape[1]:
        raise BadOutput(f"{file.num_rows} rows of dimension {file.dimension}")
    keys_W, first_row_W, num_tokens_W = _checked_windows(file, into)
    if len(keys_W) + len(marker.failed_windows) != num_windows:
        raise BadOutput(f"{len(keys_W)} windows with vectors of {num_windows}")
    at = into.num_rows
    for rows in file:
        if not np.isfinite(rows.vectors_ND).all():
            raise BadOutput("NaN or infinity")
        into.vectors_RD[at : at + len(rows.vectors_ND)] = rows.vectors_ND
        at += len(rows.vectors_ND)
    into.first_row_U[keys_W] = into.num_rows + first_row_W
    into.num_tokens_U[keys_W] = num_tokens_W
    into.num_rows = at
    into.failed.update({int(key): reason for key, reason in marker.failed_windows.items()})


def _checked_windows(
    file: VectorFile, into: WindowVectors
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Keys, first rows and tokens of a file's windows; each has its rows side by side, and as many as it should."""
    keys_R, num_tokens_R = file.windows(), file.num_tokens()
    if (num_tokens_R <= 0).any():
        raise BadOutput("a vector of no tokens")
    keys_W, first_row_W, num_rows_W = np.unique(keys_R, return_index=True, return_counts=True)
    if len(keys_W) and not 0 <= keys_W[0] <= keys_W[-1] < len(into.num_tokens_U):
        raise BadOutput("a window that the plan does not have")
    num_tokens_W = num_tokens_R[first_row_W]
    num_runs = np.count_nonzero(keys_R[1:] != keys_R[:-1]) + min(len(keys_R), 1)
    expected_W = num_tokens_W if into.is_per_token else np.ones_like(num_tokens_W)
    if into.num_tokens_U[keys_W].any() or num_runs != len(keys_W) or (num_rows_W != expected_W).any():
        raise BadOutput("a window that occurs twice, or in part")
    return keys_W, first_row_W, num_tokens_W
