"""Bin-packing: windows dealt to shards, longest first, each to the shard with the least to do.

Windows of one length cost the same, so a whole length is dealt in one step, with the outcome that dealing its
windows one by one would have (Graham's longest-processing-time rule). Only the number of windows of each length
decides, so the dealing is done before any window is looked at again.
"""

# L = distinct lengths, longest first; S = shards; N = windows of a block

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Dealing:
    """Which shard each window goes to, asked for in input order."""

    def __init__(self, lengths_L: Ints, counts_L: Ints, costs_L: Ints, num_shards: int) -> None:
        """Deal so many windows of each length, longest first; costs are positive and fall with the length."""
        loads_S = np.zeros(num_shards, dtype=np.int64)
        shards: list[Ints] = []
        counts: list[Ints] = []
        for count, cost in zip(counts_L.tolist(), costs_L.tolist(), strict=True):
            dealt_S = deal_equal(loads_S, cost, count)
            takers = dealt_S.nonzero()[0]
            counts.append(dealt_S[takers])
            shards.append(takers)
            dealt_S *= cost
            loads_S += dealt_S
        self._num_shards = num_shards
        self._lengths_L = lengths_L
        self._at_E = np.repeat(np.arange(len(lengths_L)), [len(some) for some in shards])
        """The turns of all shards, length by length: which length, ..."""
        self._shard_E = np.concatenate(shards).astype(np.int32)
        self._counts_E = np.concatenate(counts)
        self._ends_E = np.cumsum(self._counts_E)
        """... and where the turn ends, all windows counted length by length."""
        self._next_L = np.cumsum(counts_L) - counts_L
        """Where the next window of each length stands in that count."""

    def sums(self, values_L: NDArray[np.float64] | Ints) -> NDArray[np.float64]:
        """For each shard the sum of what a window of each length has."""
        weights_E = (values_L[self._at_E] * self._counts_E).astype(np.float64)
        return np.bincount(self._shard_E, weights=weights_E, minlength=self._num_shards).astype(np.float64)

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
        shard_N[order_N] = self._shard_E[np.searchsorted(self._ends_E, turns_N, side="right")]
        return shard_N


def deal_equal(loads_S: Ints, cost: int, count: int) -> Ints:
    """How many of `count` windows of equal cost each shard gets.

    Greedy dealing gives the k-th window of shard s when s has load `loads[s] + k * cost`: it takes the `count` lowest
    of those marks, the lower shard first among equals. With q, r = divmod(load, cost) the marks lie in rows q + k, in
    which each shard with q up to the row has one, at r. All rows below one are taken whole, and of that one the first.
    """
    if count == 1:
        one_S = np.zeros(len(loads_S), dtype=np.int64)
        one_S[loads_S.argmin()] = 1
        return one_S
    row_S, rest_S = np.divmod(loads_S, cost)
    sorted_S = row_S.copy()
    sorted_S.sort()
    below_S = sorted_S.cumsum()
    sorted_S *= np.arange(1, len(sorted_S) + 1)
    sorted_S -= below_S
    num_taking = int(sorted_S.searchsorted(count, side="right"))
    row, num_left = divmod(count + int(below_S[num_taking - 1]), num_taking)
    dealt_S: Ints = row - row_S
    if num_left:
        rest_S[dealt_S < 0] = cost  # not in this row
        last = np.partition(rest_S, num_left - 1)[num_left - 1]
        is_taking_S = rest_S < last
        dealt_S += is_taking_S
        equal = (rest_S == last).nonzero()[0]
        dealt_S[equal[: num_left - np.count_nonzero(is_taking_S)]] += 1
    np.maximum(dealt_S, 0, out=dealt_S)
    return dealt_S
