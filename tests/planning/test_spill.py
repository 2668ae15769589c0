"""Buckets hold what they were given, in order, in memory or in files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hpc_embed.planning.spill import Spill, bucket_of, buckets_for, by_bucket


@pytest.mark.parametrize("in_threads", [False, True])
@pytest.mark.parametrize("memory_bytes", [0, 100, 1 << 20])
@pytest.mark.parametrize("num_buckets", [1, 4])
def test_rows_come_out_of_their_bucket_in_the_order_in_which_they_went_in(
    num_buckets: int, memory_bytes: int, in_threads: bool, tmp_path: Path
) -> None:
    rows = np.arange(100)
    with ThreadPoolExecutor(2) as threads:
        used = threads if in_threads else None
        spill = Spill(tmp_path, "rows", np.dtype(np.int64), num_buckets, memory_bytes, used)
        for some in (rows[:30], rows[30:30], rows[30:]):
            spill.add(by_bucket(some % num_buckets, some))
    for bucket in range(num_buckets):
        assert spill.take(bucket).tolist() == rows[rows % num_buckets == bucket].tolist()
        assert spill.take(bucket).tolist() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("num_rows", "num_buckets"), [(0, 1), (1, 1), (8, 1), (9, 2), (17, 4), (33, 8)])
def test_buckets_are_a_power_of_two_and_the_first_bits_choose_one(num_rows: int, num_buckets: int) -> None:
    assert buckets_for(num_rows, 8) == num_buckets
    high = np.array([0, (1 << 63), (1 << 64) - 1], dtype=np.uint64)
    assert bucket_of(high, num_buckets).tolist() == [0, num_buckets // 2, num_buckets - 1]
