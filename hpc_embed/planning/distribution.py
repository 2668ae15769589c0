"""The passes over scanned parts: equal windows made one, lengths counted, shards dealt, records and shards written."""

# U = unique windows of a block, L = distinct lengths, S = shards

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpc_embed.config import PlanSettings
from hpc_embed.planning.cost import flops, millitokens, tokens_of_lengths
from hpc_embed.planning.dealing import Dealing
from hpc_embed.planning.forecast import seconds_on
from hpc_embed.planning.keys import WindowKeys, num_distinct
from hpc_embed.planning.parts import PartBlock, PartFacts, read_blocks, read_windows
from hpc_embed.planning.records import RecordsWriter, form
from hpc_embed.planning.routing import ROUTED, Routing, Sorted, large_binary
from hpc_embed.planning.scan import Scanned
from hpc_embed.progress import counting
from hpc_embed.registry import Model
from hpc_embed.run.files import make_folders, remove, whole_file
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
BLOCKS_AHEAD = 4
PUBLISHERS_PER_THREAD = 4
"""Most of the time they wait for the disk."""


Made = TypeVar("Made")


class Resources(NamedTuple):
    """What a plan may use."""

    num_threads: int
    memory_bytes: int
    """For what waits on its way to another place; threads use as much again for what they have at hand."""


class Distributed(NamedTuple):
    """What is known once every window is in its shard."""

    shards: tuple[ShardFacts, ...]
    num_distinct_ids: int


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
    with ThreadPoolExecutor(resources.num_threads, thread_name_prefix="distribute") as threads:
        digests = (windows for part in scanned.parts for windows in read_windows(scanned.folder, part))
        keys = WindowKeys(scanned.num_windows, digests, scanned.folder, resources.memory_bytes, threads)
        lengths = _count_lengths(scanned, keys)
        tokens_L = tokens_of_lengths(model, lengths.lengths_L)
        costs_L = np.maximum(millitokens(cost, tokens_L), 1)
        num_shards = _num_shards(cost, settings, usual_shards, lengths, tokens_L)
        dealing = Dealing(lengths.lengths_L, lengths.counts_L, costs_L, num_shards)
        bytes_S = dealing.sums(lengths.lengths_L + ROUTED.itemsize)
        routing = Routing(bytes_S, scanned.folder, resources.memory_bytes, threads)
        num_ids = _route(scanned, keys, dealing, routing, layout, threads, resources.memory_bytes)
        _write_shards(routing, layout, num_shards, threads, resources.num_threads)
    return Distributed(_facts(dealing, lengths, tokens_L, cost), num_ids)


def _count_lengths(scanned: Scanned, keys: WindowKeys) -> Lengths:
    totals: dict[int, int] = {}
    start = 0
    for part in scanned.parts:
        for windows_N in read_windows(scanned.folder, part):
            stop = start + len(windows_N)
            found, counts = np.unique(windows_N["length"][keys.is_first(start, stop)], return_counts=True)
            for length, count in zip(found.tolist(), counts.tolist(), strict=True):
                totals[length] = totals.get(length, 0) + count
            start = stop
    lengths_L = np.array(sorted(totals, reverse=True), dtype=np.int64)
    return Lengths(lengths_L, np.array([totals[length] for length in lengths_L.tolist()], dtype=np.int64))


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


def _route(
    scanned: Scanned,
    keys: WindowKeys,
    dealing: Dealing,
    routing: Routing,
    layout: RunLayout,
    threads: Executor,
    memory_bytes: int,
) -> int:
    """Send every unique window to its shard, and write records.parquet; the number of different ids."""
    with ExitStack() as stack:
        file = stack.enter_context(whole_file(layout.records))
        num_records = sum(part.num_records for part in scanned.parts)
        records = stack.enter_context(RecordsWriter(file, num_records, scanned.folder, memory_bytes // 4))
        route, write = (stack.enter_context(_Queue(threads)) for _ in range(2))
        start = first = 0
        for part, num_lines, block in _blocks(scanned):
            stop = start + len(block.windows_W)
            is_first_W, keys_W = keys.keys(start, stop)
            shard_U = dealing.shards_of(block.windows_W["length"][is_first_W])
            write.put(partial(form, block.records, first, part.source, num_lines, keys_W), records.add)
            route.put(partial(_sort, routing, block, is_first_W, keys_W, shard_U), routing.add)
            start, first = stop, first + len(block.records)
        route.finish()
        write.finish()
    return num_distinct(records.ids, threads)


def _sort(
    routing: Routing, block: PartBlock, is_first_W: NDArray[np.bool_], keys_W: Ints, shard_U: NDArray[np.int32]
) -> Sorted:
    lengths_W = block.windows_W["length"]
    letters = large_binary(block.letters, lengths_W)
    if not is_first_W.all():
        letters = letters.filter(is_first_W)
    return routing.sort(keys_W[is_first_W], lengths_W[is_first_W], shard_U, letters)


def _blocks(scanned: Scanned) -> Iterator[tuple[PartFacts, int, PartBlock]]:
    """The blocks of all parts, each with its part and the lines of its source before the part."""
    source, num_lines = -1, 0
    for part in scanned.parts:
        if part.source != source:
            source, num_lines = part.source, 0
        for block in read_blocks(scanned.folder, part):
            yield part, num_lines, block
        num_lines += part.num_lines


class _Queue:
    """Things made in any of the threads, and taken one after the other in a thread of their own, in turn."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._own = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()

    def put(self, make: Callable[[], Made], take: Callable[[Made], None]) -> None:
        made = self._threads.submit(make)
        self._pending.append(self._own.submit(lambda: take(made.result())))
        if len(self._pending) > BLOCKS_AHEAD:
            self._pending.popleft().result()

    def finish(self) -> None:
        while self._pending:
            self._pending.popleft().result()

    def __enter__(self) -> _Queue:
        return self

    def __exit__(self, *_: object) -> None:
        self._own.shutdown(wait=True, cancel_futures=True)


def _write_shards(routing: Routing, layout: RunLayout, num_shards: int, threads: Executor, num_threads: int) -> None:
    for folder in shard_folders(layout.shards, num_shards):
        make_folders(folder)
    with (
        counting("writing", num_shards, "shards") as count,
        ThreadPoolExecutor(PUBLISHERS_PER_THREAD * (num_threads - 1) or 1) as publishers,
    ):
        groups = range(routing.num_groups)
        for number in threads.map(lambda group: routing.write_group(group, layout, publishers), groups):
            count.advance(number)
    for stale in range(num_shards, MAX_SHARDS):
        if not layout.shard(stale).exists():
            break
        remove(layout.shard(stale))


def _facts(dealing: Dealing, lengths: Lengths, tokens_L: Ints, cost: Cost) -> tuple[ShardFacts, ...]:
    values = (np.ones_like(tokens_L), lengths.lengths_L, tokens_L, flops(cost, tokens_L))
    columns = (np.rint(dealing.sums(values_L)).astype(np.int64).tolist() for values_L in values)
    return tuple(
        ShardFacts(num_windows=windows, num_residues=residues, num_tokens=tokens, flops=num_flops)
        for windows, residues, tokens, num_flops in zip(*columns, strict=True)
    )
