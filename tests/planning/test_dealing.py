"""Bin-packing against dealing one window at a time."""

from __future__ import annotations

import heapq
import random

import numpy as np
import pytest

from hpc_embed.planning.dealing import deal, deal_equal, spread


def deal_one_by_one(lengths: list[int], costs: list[int], num_shards: int) -> list[int]:
    """The oracle: longest first, each to the least loaded shard, the lower one of equals."""
    heap = [(0, shard) for shard in range(num_shards)]
    loads = [0] * num_shards
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        load, shard = heapq.heappop(heap)
        loads[shard] = load + costs[lengths[index]]
        heapq.heappush(heap, (loads[shard], shard))
    return loads


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("seed", range(5))
def test_dealing_a_length_at_once_gives_the_loads_of_dealing_one_by_one(num_shards: int, seed: int) -> None:
    draw = random.Random(seed)
    lengths = [draw.randint(1, 40) for _ in range(draw.randint(1, 600))]
    costs = [length * (3 + length) for length in range(41)]
    shard_of_window = deal(np.array(lengths), np.array(costs), num_shards)
    loads = np.bincount(shard_of_window, weights=[costs[n] for n in lengths], minlength=num_shards)
    assert loads.tolist() == deal_one_by_one(lengths, costs, num_shards)


def test_equal_windows_on_uneven_shards_fill_the_valleys_first() -> None:
    assert deal_equal(np.array([10, 0, 4]), cost=4, count=4).tolist() == [0, 3, 1]


def test_of_equal_windows_neighbours_stay_together() -> None:
    assert deal(np.full(6, 5), np.arange(6) + 1, 2).tolist() == [0, 0, 0, 1, 1, 1]


def test_a_million_equal_windows_are_dealt_in_one_step() -> None:
    assert np.bincount(deal(np.full(1_000_000, 3), np.full(4, 7), 1000)).tolist() == [1000] * 1000


def test_spread_is_the_largest_over_the_mean() -> None:
    assert spread(np.array([1, 2, 3])) == 1.5
