"""Bin-packing: windows dealt to shards, longest first, each to the shard with the least to do.

Windows of one length cost the same, so a whole length is dealt in one step, with the outcome that dealing
its windows one by one would have (Graham's longest-processing-time rule).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def deal(lengths_N: Ints, cost_of_length: Ints, num_shards: int) -> Ints:
    """The shard of each window.

    `cost_of_length[n]` is the positive cost of a window of n residues; it must not fall as n grows.
    Of equal windows the earlier go to the lower shards, so that neighbours stay together.
    """
    shard_of_window_N = np.empty(len(lengths_N), dtype=np.int64)
    loads_S = np.zeros(num_shards, dtype=np.int64)
    order_N = np.argsort(-lengths_N, kind="stable")
    distinct, starts = np.unique(-lengths_N[order_N], return_index=True)
    edges = [*starts.tolist(), len(lengths_N)]
    for length, start, stop in zip((-distinct).tolist(), edges, edges[1:], strict=False):
        cost = int(cost_of_length[length])
        dealt_S = deal_equal(loads_S, cost, stop - start)
        shard_of_window_N[order_N[start:stop]] = np.repeat(np.arange(num_shards), dealt_S)
        loads_S += dealt_S * cost
    return shard_of_window_N


def deal_equal(loads_S: Ints, cost: int, count: int) -> Ints:
    """How many of `count` windows of equal cost each shard gets.

    Greedy dealing gives the k-th window of shard s when s has load `loads[s] + k * cost`: it takes the
    `count` lowest of those marks, the lower shard first among equals. The level that cuts them off is found
    by bisection.
    """
    low, high = int(loads_S.min()), int(loads_S.min()) + cost * count + 1
    while high - low > 1:
        level = (low + high) // 2
        if _marks_below(loads_S, cost, level).sum() <= count:
            low = level
        else:
            high = level
    dealt_S = _marks_below(loads_S, cost, low)
    on_the_level = np.flatnonzero((loads_S <= low) & ((low - loads_S) % cost == 0))
    dealt_S[on_the_level[: count - int(dealt_S.sum())]] += 1
    return dealt_S


def _marks_below(loads_S: Ints, cost: int, level: int) -> Ints:
    return np.maximum(0, -((loads_S - level) // cost))


def spread(loads_S: Ints) -> float:
    """The largest load over the mean: 1 is perfect balance."""
    return float(loads_S.max() / loads_S.mean())
