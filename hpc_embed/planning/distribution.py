"""The passes over scanned parts: equal windows made one, lengths counted, shards dealt, records and shards written."""

# U = unique windows of a block, L = distinct lengths, S = shards

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_embed.config import PlanSettings
from hpc_embed.model import Model
from hpc_embed.planning.cost import flops, millitokens, tokens_of_lengths
from hpc_embed.planning.dealing import Dealing
from hpc_embed.planning.forecast import seconds_on
from hpc_embed.planning.keys import WindowKeys
from hpc_embed.planning.lookahead import in_turn
from hpc_embed.planning.parts import Windows, read_letters, read_windows
from hpc_embed.planning.records import WrittenRecords, write_records
from hpc_embed.planning.routing import ROUTED, Routing, Sorted
from hpc_embed.planning.scan import Scanned
from hpc_embed.progress import counting
from hpc_embed.run.files import make_folders, remove
from hpc_embed.run.layout import RunLayout, shard_folders
from hpc_embed.run.plan import Cost
from hpc_embed.run.shard_table import ShardFacts
from hpc_embed.sequences.kernel import Ints

USUAL_SHARDS = 256
SHORTEST_USUAL_MINUTES, LONGEST_USUAL_MINUTES = 5.0, 30.0
"""Found by simulation (docs/scale.md): few devices and many both end within some 7 % of the best on the mean."""
MAX_SHARDS = 100_000
MOST_SHARD_RESIDUES = 1 << 28
"""A worker holds a shard in memory; none is larger unless --num-shards says so."""
LONG = 1 << 16
"""Shorter windows are counted in a table by their length; longer ones are few."""
PUBLISHERS_PER_THREAD = 4
"""Most of the time they wait for the disk."""


class Resources(NamedTuple):
    """What a plan may use."""

    num_threads: int
    memory_bytes: int
    """For what waits on its way to another place; threads use as much again for what they have at hand."""


class Distributed(NamedTuple):
    """What is known once every window is in its shard."""

    shards: tuple[ShardFacts, ...]
    records: WrittenRecords


class Lengths(NamedTuple):
    """The unique windows by length, longest first."""

    lengths_L: Ints
    counts_L: Ints


def distribute(
    scanned: Scanned,
    model: Model,
    cost: Cost,
    settings: PlanSettings,
    layout: RunLayout,
    usual_shards: int | None,
    resources: Resources,
) -> Distributed:
    """Write the shards and records.parquet of a scanned input."""
    stop = Event()
    with (
        ThreadPoolExecutor(resources.num_threads, thread_name_prefix="distribute") as threads,
        ThreadPoolExecutor(1, thread_name_prefix="records") as beside,
    ):
        try:
            digests = (windows for part in scanned.parts for windows in read_windows(scanned.folder, part))
            keys = WindowKeys(scanned.num_windows, digests, scanned.folder, resources.memory_bytes, threads)
            records = beside.submit(write_records, scanned, keys, layout, threads, resources.memory_bytes // 4, stop)
            lengths = _count_lengths(scanned, keys)
            tokens_L = tokens_of_lengths(model, lengths.lengths_L)
            costs_L = np.maximum(millitokens(cost, tokens_L), 1)
            num_shards = _num_shards(cost, settings, usual_shards, lengths, tokens_L)
            dealing = Dealing(lengths.lengths_L, lengths.counts_L, costs_L, num_shards)
            bytes_S = dealing.sums(lengths.lengths_L + ROUTED.itemsize)
            routing = Routing(bytes_S, scanned.folder, resources.memory_bytes, threads)
            _route(scanned, keys, dealing, routing, threads, records)
            of_shards = _write_shards(routing, layout, num_shards, threads, resources.num_threads, records)
            return Distributed(_facts(dealing, lengths, tokens_L, cost, of_shards), records.result())
        finally:
            stop.set()


def _count_lengths(scanned: Scanned, keys: WindowKeys) -> Lengths:
    counts_of_short = np.zeros(LONG, dtype=np.int64)
    long_N = [np.empty(0, dtype=np.int64)]
    start = 0
    for part in scanned.parts:
        for windows_N in read_windows(scanned.folder, part):
            stop = start + len(windows_N)
            lengths_U = windows_N["length"][keys.is_first(start, stop)]
            counts_of_short += np.bincount(lengths_U[lengths_U < LONG], minlength=LONG)
            long_N.append(lengths_U[lengths_U >= LONG])
            start = stop
    long_L, counts_of_long = np.unique(np.concatenate(long_N), return_counts=True)
    short_L = np.flatnonzero(counts_of_short)
    lengths_L, counts_L = np.concatenate((short_L, long_L)), np.concatenate((counts_of_short[short_L], counts_of_long))
    return Lengths(lengths_L[::-1], counts_L[::-1])


def usual_shard_minutes(minutes: float) -> float:
    """Length of a shard of a run that takes one device so many minutes."""
    return min(max(minutes / USUAL_SHARDS, SHORTEST_USUAL_MINUTES), LONGEST_USUAL_MINUTES)


def _num_shards(cost: Cost, settings: PlanSettings, usual_shards: int | None, lengths: Lengths, tokens_L: Ints) -> int:
    num_windows = int(lengths.counts_L.sum())
    if settings.num_shards:
        return max(1, min(int(settings.num_shards), num_windows, MAX_SHARDS))
    if usual_shards and not settings.shard_minutes:
        wanted = usual_shards
    else:
        num_flops = float((flops(cost, tokens_L) * lengths.counts_L).sum())
        num_tokens = int((tokens_L * lengths.counts_L).sum())
        minutes = seconds_on(settings.device, cost, num_flops, num_tokens) / 60
        wanted = math.ceil(minutes / (settings.shard_minutes or usual_shard_minutes(minutes)))
    least = -(-int((lengths.lengths_L * lengths.counts_L).sum()) // MOST_SHARD_RESIDUES)
    return max(1, min(max(wanted, least), num_windows, MAX_SHARDS))


def _raise_fault(beside: Future[WrittenRecords]) -> None:
    """Raise what has gone wrong beside, as soon as it has."""
    if beside.done():
        beside.result()


def _route(
    scanned: Scanned,
    keys: WindowKeys,
    dealing: Dealing,
    routing: Routing,
    threads: Executor,
    records: Future[WrittenRecords],
) -> None:
    """Send every unique window on its way to its shard."""
    calls = (
        partial(_sort, routing, windows, is_first_W, key, dealing.shards_of(windows.windows_W["length"][is_first_W]))
        for windows, is_first_W, key in _unique(scanned, keys)
    )
    for ordered in in_turn(threads, calls):
        _raise_fault(records)
        routing.add(ordered)


def _unique(scanned: Scanned, keys: WindowKeys) -> Iterator[tuple[Windows, NDArray[np.bool_], int]]:
    """All windows, which of them are unique, and the key of the first of these."""
    start = 0
    for part in scanned.parts:
        for windows in read_letters(scanned.folder, part):
            stop = start + len(windows.windows_W)
            yield windows, keys.is_first(start, stop), keys.num_unique_before(start)
            start = stop


def _sort(
    routing: Routing, windows: Windows, is_first_W: NDArray[np.bool_], key: int, shard_U: NDArray[np.int32]
) -> Sorted:
    lengths_W = windows.windows_W["length"]
    starts_U, lengths_U = (np.cumsum(lengths_W) - lengths_W)[is_first_W], lengths_W[is_first_W]
    return routing.sort(np.arange(key, key + len(shard_U)), lengths_U, shard_U, windows.letters, starts_U)


def _write_shards(
    routing: Routing,
    layout: RunLayout,
    num_shards: int,
    threads: Executor,
    num_threads: int,
    records: Future[WrittenRecords],
) -> list[str]:
    """Their digests, in order."""
    digests: list[str] = []
    for folder in shard_folders(layout.shards, num_shards):
        make_folders(folder)
    with (
        counting("writing", num_shards, "shards") as count,
        ThreadPoolExecutor(PUBLISHERS_PER_THREAD * (num_threads - 1) or 1) as publishers,
    ):
        groups = range(routing.num_groups)
        for written in threads.map(lambda group: routing.write_group(group, layout, publishers), groups):
            _raise_fault(records)
            digests += written
            count.advance(len(written))
    for stale in range(num_shards, MAX_SHARDS):
        if not layout.shard(stale).exists():
            break
        remove(layout.shard(stale))
    return digests


def _facts(
    dealing: Dealing, lengths: Lengths, tokens_L: Ints, cost: Cost, digests: list[str]
) -> tuple[ShardFacts, ...]:
    values = (np.ones_like(tokens_L), lengths.lengths_L, tokens_L, flops(cost, tokens_L))
    columns = (np.rint(dealing.sums(values_L)).astype(np.int64).tolist() for values_L in values)
    return tuple(
        ShardFacts(num_windows=windows, num_residues=residues, num_tokens=tokens, flops=num_flops, sha256=digest)
        for windows, residues, tokens, num_flops, digest in zip(*columns, digests, strict=True)
    )
