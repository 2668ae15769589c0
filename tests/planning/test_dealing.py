"""Bin-packing against dealing one window at a time."""

from __future__ import annotations

import heapq
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hpc_embed.planning import dealing
from hpc_embed.planning.dealing import Dealing

WAYS = ("C", "Python")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the library, and as where there is none."""
    if request.param == "Python":
        monkeypatch.setattr(dealing, "_library", lambda: None)
    else:
        assert dealing.LIBRARY.exists(), "no C compiler when the package was installed"
    return str(request.param)


def deal(lengths: list[int], costs: list[int], num_shards: int) -> NDArray[np.int32]:
    """The shards of windows, asked for in three blocks."""
    distinct, counts = np.unique(lengths, return_counts=True)
    costs_of = np.array([costs[length] for length in distinct.tolist()])
    done = Dealing(distinct[::-1], counts[::-1], costs_of[::-1], num_shards)
    return np.concatenate([done.shards_of(block) for block in np.array_split(np.array(lengths), 3)])


def deal_one_by_one(loads: list[int], lengths: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The oracle: each window to the least loaded shard, the lower of equals; for each length who takes how many."""
    heap = [(load, shard) for shard, load in enumerate(loads)]
    heapq.heapify(heap)
    turns = []
    for count, cost in lengths:
        taken: Counter[int] = Counter()
        for _ in range(count):
            load, shard = heapq.heappop(heap)
            taken[shard] += 1
            heapq.heappush(heap, (load + cost, shard))
        turns.append(sorted(taken.items()))
    return turns


def turns_of(dealt: dealing.Dealt) -> list[list[tuple[int, int]]]:
    """As the oracle tells them."""
    turns = iter(zip(dealt.shard_E.tolist(), np.diff(dealt.ends_E, prepend=0).tolist(), strict=True))
    return [[next(turns) for _ in range(num)] for num in dealt.num_takers_L.tolist()]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("num_shards", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_dealing_a_length_at_once_is_dealing_one_by_one(num_shards: int, seed: int) -> None:
    draw = random.Random(seed)
    loads = [draw.randint(0, 10**12) * (seed % 2) for _ in range(num_shards)]
    lengths = [(draw.randint(1, 400), draw.choice([1, 3, draw.randint(1, 10**9)])) for _ in range(20)]
    dealt = dealing.deal(np.array(loads), *np.array(lengths).T)
    assert turns_of(dealt) == deal_one_by_one(loads, lengths)


@given(
    loads=st.lists(st.integers(0, 60), min_size=1, max_size=9),
    lengths=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 13)), min_size=1, max_size=3),
)
def test_equal_windows_go_where_one_by_one_they_would(loads: list[int], lengths: list[tuple[int, int]]) -> None:
    dealt = dealing.deal(np.array(loads), *np.array(lengths).T)
    assert turns_of(dealt) == deal_one_by_one(loads, lengths)


@pytest.mark.usefixtures("way")
def test_equal_windows_on_uneven_shards_fill_the_valleys_first() -> None:
    dealt = dealing.deal(np.array([10, 0, 4]), np.array([4]), np.array([4]))
    assert turns_of(dealt) == [[(1, 3), (2, 1)]]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("num_shards", [1, 3, 64])
def test_every_window_goes_to_a_shard_that_was_dealt_it(num_shards: int) -> None:
    draw = random.Random(num_shards)
    lengths = [draw.randint(1, 40) for _ in range(500)]
    costs = [length * (3 + length) for length in range(41)]
    shard_of_window = deal(lengths, costs, num_shards)
    counts = sorted(Counter(lengths).items(), reverse=True)
    turns = deal_one_by_one([0] * num_shards, [(count, costs[length]) for length, count in counts])
    for (length, _), takers in zip(counts, turns, strict=True):
        assert sorted(Counter(shard_of_window[np.array(lengths) == length].tolist()).items()) == takers


def test_of_equal_windows_neighbours_stay_together() -> None:
    assert deal([5] * 6, list(range(1, 7)), 2).tolist() == [0, 0, 0, 1, 1, 1]


def test_a_million_equal_windows_are_dealt_in_one_step() -> None:
    assert np.bincount(deal([3] * 1_000_000, [7] * 4, 1000)).tolist() == [1000] * 1000


@pytest.mark.parametrize("turns_at_once", [1, 4, 1000])
def test_sums_are_those_of_the_windows_that_each_shard_was_dealt(
    turns_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealing, "TURNS_AT_ONCE", turns_at_once)
    done = Dealing(np.array([9, 4, 1]), np.array([2, 3, 5]), np.array([9, 4, 1]), 2)
    shards = done.shards_of(lengths := np.array([1, 4, 9, 1, 4, 1, 4, 9, 1, 1]))
    assert done.sums(np.array([9, 4, 1])).tolist() == np.bincount(shards, weights=lengths).tolist()
