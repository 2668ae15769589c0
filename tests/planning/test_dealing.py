"""Bin-packing against dealing one window at a time."""

from __future__ import annotations

import heapq
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hpc_embed.planning.dealing import Dealing, deal_equal


def deal(lengths: list[int], costs: list[int], num_shards: int) -> NDArray[np.int32]:
    """The shards of windows, asked for in three blocks."""
    distinct, counts = np.unique(lengths, return_counts=True)
    costs_of = np.array([costs[length] for length in distinct.tolist()])
    dealing = Dealing(distinct[::-1], counts[::-1], costs_of[::-1], num_shards)
    return np.concatenate([dealing.shards_of(block) for block in np.array_split(np.array(lengths), 3)])


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
    shard_of_window = deal(lengths, costs, num_shards)
    loads = np.bincount(shard_of_window, weights=[costs[n] for n in lengths], minlength=num_shards)
    assert loads.tolist() == deal_one_by_one(lengths, costs, num_shards)


def test_equal_windows_on_uneven_shards_fill_the_valleys_first() -> None:
    assert deal_equal(np.array([10, 0, 4]), cost=4, count=4).tolist() == [0, 3, 1]


@given(loads=st.lists(st.integers(0, 60), min_size=1, max_size=9), cost=st.integers(1, 13), count=st.integers(1, 50))
def test_equal_windows_go_where_one_by_one_they_would(loads: list[int], cost: int, count: int) -> None:
    heap = [(load, shard) for shard, load in enumerate(loads)]
    heapq.heapify(heap)
    dealt = [0] * len(loads)
    for _ in range(count):
        load, shard = heapq.heappop(heap)
        dealt[shard] += 1
        heapq.heappush(heap, (load + cost, shard))
    assert deal_equal(np.array(loads), cost, count).tolist() == dealt


def test_of_equal_windows_neighbours_stay_together() -> None:
    assert deal([5] * 6, list(range(1, 7)), 2).tolist() == [0, 0, 0, 1, 1, 1]


def test_a_million_equal_windows_are_dealt_in_one_step() -> None:
    assert np.bincount(deal([3] * 1_000_000, [7] * 4, 1000)).tolist() == [1000] * 1000


def test_sums_are_those_of_the_windows_that_each_shard_was_dealt() -> None:
    dealing = Dealing(np.array([9, 4, 1]), np.array([2, 3, 5]), np.array([9, 4, 1]), 2)
    shards = dealing.shards_of(lengths := np.array([1, 4, 9, 1, 4, 1, 4, 9, 1, 1]))
    assert dealing.sums(np.array([9, 4, 1])).tolist() == np.bincount(shards, weights=lengths).tolist()
