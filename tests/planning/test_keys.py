"""Keys of windows against a dictionary: equal digests have the key of the first, and half of one is not enough."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hpc_embed.planning import keys as keys_module
from hpc_embed.planning.keys import DIGESTED, WindowKeys, num_distinct
from hpc_embed.planning.spill import Spill, bucket_of, by_bucket
from hpc_embed.sequences.kernel import DIGEST


def oracle(digests: list[tuple[int, int]]) -> tuple[list[bool], list[int]]:
    """Which windows are the first of their kind, and the key of each."""
    seen: dict[tuple[int, int], int] = {}
    is_first = [digest not in seen and seen.setdefault(digest, len(seen)) >= 0 for digest in digests]
    return is_first, [seen[digest] for digest in digests]


def rows(digests: list[tuple[int, int]]) -> np.ndarray:
    made = np.zeros(len(digests), dtype=DIGESTED)
    made["window"] = 10  # a length, whose place its number takes
    made["high"] = [np.uint64(high << 60) | np.uint64(high) for high, _ in digests]
    made["low"] = [low for _, low in digests]
    return made


@pytest.mark.parametrize("num_windows", [0, 1, 2, 63, 64, 65, 127, 128, 129, 300])
@pytest.mark.parametrize("num_kinds", [1, 4, 1000])
@pytest.mark.parametrize("range_size", [1 << 21, 50])
def test_keys_are_those_of_a_dictionary(
    num_windows: int, num_kinds: int, range_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "WINDOWS_PER_RANGE", range_size)
    monkeypatch.setattr(keys_module, "ROWS_PER_BUCKET", 40)
    draw = np.random.default_rng(num_windows + num_kinds)
    highs, lows = draw.integers(0, 16, num_windows).tolist(), draw.integers(0, num_kinds, num_windows).tolist()
    digests = list(zip(highs, lows, strict=True))
    blocks = [rows(digests[start : start + 7]) for start in range(0, num_windows, 7)]
    with ThreadPoolExecutor(2) as threads:
        found = WindowKeys(num_windows, blocks, tmp_path, 1 << 20, threads)
    is_first, keys = oracle(digests)
    assert found.num_unique == sum(is_first)
    for start in (0, 1, 5, 63, 64, 65):
        for stop in (start, start + 1, start + 64, num_windows):
            if start <= stop <= num_windows:
                assert found.is_first(start, stop).tolist() == is_first[start:stop], (start, stop)
                assert found.num_unique_before(start) == sum(is_first[:start])
    edges = [*range(0, num_windows, 37), num_windows]
    in_turn = [found.keys(start, stop).tolist() for start, stop in pairwise(edges)]
    assert [key for some in in_turn for key in some] == keys


def test_digests_that_agree_in_half_are_different() -> None:
    digests = [(3, 1), (3, 2), (3, 1), (2, 1), (3, 2), (3, 1)]
    sorted_N, starts = keys_module._grouped(rows(digests))
    groups = np.split(sorted_N["low"], starts[1:].tolist())
    assert [(len(group), set(group.tolist())) for group in groups] == [(1, {1}), (3, {1}), (2, {2})]
    assert len(keys_module._grouped(rows([]))[1]) == 0
    numbered = rows(digests)
    numbered["window"] = range(6)
    assert sorted(keys_module._repeated(numbered).tolist()) == [(2, 0), (4, 1), (5, 0)]


def test_different_digests_are_counted_across_buckets(tmp_path: Path) -> None:
    ids = Spill(tmp_path, "ids", DIGEST, 4, 1 << 20)
    digests = np.zeros(9, dtype=DIGEST)
    digests["high"] = np.array([0, 1, 2, 3, 0, 1, 2, 3, 0], dtype=np.uint64) << np.uint64(62)
    digests["low"] = [1, 1, 1, 1, 1, 2, 1, 1, 3]
    ids.add(by_bucket(bucket_of(digests["high"], 4), digests))
    assert num_distinct(ids) == 6
