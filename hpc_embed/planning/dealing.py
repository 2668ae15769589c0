"""Bin-packing: windows dealt to shards, longest first, each to the shard with the least to do.

Windows of one length cost the same, so a whole length is dealt in one step, with the outcome that dealing its
windows one by one would have (Graham's longest-processing-time rule). Only the number of windows of each length
decides, so the dealing is done before any window is looked at again.
"""

# L = distinct lengths, longest first; S = shards; N = windows of a block; E = turns of shards, length by length

from __future__ import annotations

import ctypes
import heapq
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_embed.sequences.kernel import Ints, addresses, length_of

LIBRARY = Path(__file__).with_name("libdealing.so")
"""kernels/dealing.c, built when the package is installed where a C compiler is."""
TURNS_AT_ONCE = 1 << 20


class Dealt(NamedTuple):
    """Which shards take windows of each length, and how many; the lower shards first. 12 bytes a turn."""

    num_takers_L: Ints
    shard_E: NDArray[np.int32]
    ends_E: Ints
    """Where the turn ends, all windows counted length by length."""


class Dealing:
    """Which shard each window goes to, asked for in input order."""

    def __init__(self, lengths_L: Ints, counts_L: Ints, costs_L: Ints, num_shards: int) -> None:
        """Deal so many windows of each length, longest first; costs are positive and fall with the length."""
        self._num_shards = num_shards
        self._lengths_L = lengths_L
        self._dealt = deal(np.zeros(num_shards, dtype=np.int64), counts_L, costs_L)
        self._next_L = np.cumsum(counts_L) - counts_L
        """Where the next window of each length stands when all are counted."""

    def sums(self, values_L: NDArray[np.float64] | Ints) -> NDArray[np.float64]:
        """For each shard the sum of what a window of each length has."""
        num_takers_L, shard_E, ends_E = self._dealt
        sums_S = np.zeros(self._num_shards)
        start = num_before = 0
        for some_L in np.array_split(np.arange(len(values_L)), -(-len(shard_E) // TURNS_AT_ONCE)):
            stop = start + int(num_takers_L[some_L].sum())
            counts_E = np.diff(ends_E[start:stop], prepend=num_before)
            weights_E = np.repeat(values_L[some_L], num_takers_L[some_L]) * counts_E
            sums_S += np.bincount(shard_E[start:stop], weights=weights_E, minlength=self._num_shards)
            start, num_before = stop, int(ends_E[stop - 1])
        return sums_S

    def shards_of(self, lengths_N: Ints) -> NDArray[np.int32]:
        """The shards of the next windows. Of equal windows the earlier go to the lower shards."""
        longest = int(self._lengths_L[0])
        shorter_N = longest - lengths_N
        order_N = np.argsort(shorter_N.astype(np.uint16) if longest < 1 << 16 else shorter_N, kind="stable")
        distinct, starts, counts = np.unique(shorter_N[order_N], return_index=True, return_counts=True)
        at = np.searchsorted(longest - self._lengths_L, distinct)
        turns_N = np.arange(len(order_N)) + np.repeat(self._next_L[at] - starts, counts)
        self._next_L[at] += counts
        shard_N = np.empty(len(lengths_N), dtype=np.int32)
        shard_N[order_N] = self._dealt.shard_E[np.searchsorted(self._dealt.ends_E, turns_N, side="right")]
        return shard_N


def deal(loads_S: Ints, counts_L: Ints, costs_L: Ints) -> Dealt:
    """Deal so many windows of each cost, one cost after the other, on top of what the shards hold.

    Where two shards hold the least the lower takes the window. A window at a time, or in C a length at a time.
    """
    library = _library()
    if library is None:
        return _deal_one_by_one(loads_S, counts_L, costs_L)
    most = int(np.minimum(counts_L, len(loads_S)).sum())
    num_takers_L = np.empty(len(counts_L), dtype=np.int64)
    shard_E, ends_E = np.empty(most, dtype=np.int32), np.empty(most, dtype=np.int64)
    loads_S, counts_L, costs_L = (values.astype(np.int64) for values in (loads_S, counts_L, costs_L))
    rows_S, rests_S = np.empty_like(loads_S), np.empty_like(loads_S)
    library.hpc_embed_deal(
        *addresses(loads_S, rows_S, rests_S),
        length_of(loads_S),
        *addresses(counts_L, costs_L),
        length_of(counts_L),
        *addresses(shard_E, ends_E, num_takers_L),
    )
    num_turns = int(num_takers_L.sum())
    return Dealt(num_takers_L, shard_E[:num_turns], ends_E[:num_turns])


def _deal_one_by_one(loads_S: Ints, counts_L: Ints, costs_L: Ints) -> Dealt:
    heap = list(zip(loads_S.tolist(), range(len(loads_S)), strict=True))
    heapq.heapify(heap)
    turns: list[list[tuple[int, int]]] = []
    for count, cost in zip(counts_L.tolist(), costs_L.tolist(), strict=True):
        taken: Counter[int] = Counter()
        for _ in range(count):
            load, shard = heap[0]
            heapq.heapreplace(heap, (load + cost, shard))
            taken[shard] += 1
        turns.append(sorted(taken.items()))
    shard_E, counts_E = np.array([turn for some in turns for turn in some], dtype=np.int64).reshape(-1, 2).T
    return Dealt(np.array([len(some) for some in turns]), shard_E.astype(np.int32), np.cumsum(counts_E))


@cache
def _library() -> ctypes.CDLL | None:
    return ctypes.CDLL(str(LIBRARY)) if LIBRARY.exists() else None
