"""The key of every window: unique windows numbered in input order, equal ones found by their digests, out of core.

Windows go to buckets by the first bits of their digests; a bucket is sorted in memory, and of equal windows the
first in the input counts. A bit for every window says whether it is such a first one, and a window's key is the
number of firsts in front of it. In memory: two bits a window, whatever the size of the input.
"""

# N = windows of a block or a bucket

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_embed.planning.lookahead import in_turn
from hpc_embed.planning.spill import Bucketed, Rows, Spill, bucket_of, buckets_for, by_bucket
from hpc_embed.sequences.kernel import Ints

Words = NDArray[np.uint64]

DIGESTED = np.dtype([("window", "<i8"), ("high", "<u8"), ("low", "<u8")])
"""As WINDOW of a part, its number in the place of its length."""
REPEATED = np.dtype([("window", "<i8"), ("first", "<i8")])
"""A window that occurred before, and where."""
ROWS_PER_BUCKET = 1 << 18
"""Sorting them takes some 30 MB."""
WINDOWS_PER_RANGE = 1 << 21
ALL_ONES = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


class WindowKeys:
    """Keys of all windows."""

    def __init__(
        self, num_windows: int, windows: Iterable[Rows], folder: Path, memory_bytes: int, threads: Executor
    ) -> None:
        """`windows`: all of them, in order, as WINDOW in blocks; they are used up."""
        num_buckets = buckets_for(num_windows, ROWS_PER_BUCKET)
        by_digest = Spill(folder, "digests", DIGESTED, num_buckets, memory_bytes, threads)
        for bucketed in in_turn(threads, _calls(windows, num_buckets)):
            by_digest.add(bucketed)
        num_ranges = max(1, -(-num_windows // WINDOWS_PER_RANGE))
        self._repeated = Spill(folder, "repeated", REPEATED, num_ranges, memory_bytes)
        self._is_first = np.full(-(-num_windows // 64) + 1, ALL_ONES)
        self._is_first[-1] = 0
        if num_windows % 64:
            self._is_first[-2] = np.uint64((1 << num_windows % 64) - 1)
        for repeated_N in threads.map(lambda bucket: _repeated(by_digest.take(bucket)), range(by_digest.num_buckets)):
            windows_N = repeated_N["window"]
            bits_N = np.uint64(1) << (windows_N & 63).astype(np.uint64)
            np.subtract.at(self._is_first, windows_N >> 6, bits_N)  # each is set, and cleared once
            self._repeated.add(by_bucket(windows_N // WINDOWS_PER_RANGE, repeated_N))
        self._before = np.concatenate(([0], np.cumsum(_num_ones(self._is_first))))
        self.num_unique = int(self._before[-1])
        self._range = -1
        self._in_range = np.empty(0, dtype=REPEATED)

    def is_first(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Which of some windows are the first of their kind."""
        words = self._is_first[start >> 6 : (stop + 63) >> 6]
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")[start & 63 : (start & 63) + stop - start]
        return bits.astype(np.bool_)

    def num_unique_before(self, window: int) -> int:
        """How many different windows are in front of one: its key where it is a first one."""
        return int(self._rank(np.array([window]))[0])

    def keys(self, start: int, stop: int) -> Ints:
        """The keys of some windows; from one call to the next they only go forward, in one thread."""
        keys_N: Ints = self.num_unique_before(start) + np.cumsum(self.is_first(start, stop)) - 1
        for repeated_N in self._repeated_between(start, stop):
            keys_N[repeated_N["window"] - start] = self._rank(repeated_N["first"])
        return keys_N

    def _repeated_between(self, start: int, stop: int) -> Iterator[Rows]:
        for number in range(start // WINDOWS_PER_RANGE, -(-stop // WINDOWS_PER_RANGE)):
            if number > self._range:
                self._in_range = np.sort(self._repeated.take(number), order="window")
                self._range = number
            edges = np.searchsorted(self._in_range["window"], [start, stop])
            yield self._in_range[edges[0] : edges[1]]

    def _rank(self, windows_N: Ints) -> Ints:
        """How many firsts are in front of each window."""
        words_N = self._is_first[windows_N >> 6]
        below_N = (np.uint64(1) << (windows_N & 63).astype(np.uint64)) - np.uint64(1)
        ranks_N: Ints = self._before[windows_N >> 6] + _num_ones(words_N & below_N)
        return ranks_N


def _calls(windows: Iterable[Rows], num_buckets: int) -> Iterator[Callable[[], Bucketed]]:
    """What deals the windows of each block."""
    start = 0
    for windows_N in windows:
        yield partial(_numbered, windows_N.view(DIGESTED), start, num_buckets)
        start += len(windows_N)


def _numbered(rows_N: Rows, start: int, num_buckets: int) -> Bucketed:
    rows_N["window"] = np.arange(start, start + len(rows_N))
    return by_bucket(bucket_of(rows_N["high"], num_buckets), rows_N)


def _repeated(rows_N: Rows) -> Rows:
    """Of the windows of a bucket those that occurred before."""
    sorted_N, starts_G = _grouped(rows_N)
    first_G = np.minimum.reduceat(sorted_N["window"], starts_G) if len(sorted_N) else np.empty(0, dtype=np.int64)
    first_N = np.repeat(first_G, np.diff(np.append(starts_G, len(sorted_N))))
    is_repeated_N = sorted_N["window"] != first_N
    found_N = np.empty(np.count_nonzero(is_repeated_N), dtype=REPEATED)
    found_N["window"], found_N["first"] = sorted_N["window"][is_repeated_N], first_N[is_repeated_N]
    return found_N


def _grouped(rows_N: Rows) -> tuple[Rows, Ints]:
    """Rows with equal digests side by side, and where each of these groups begins."""
    sorted_N = rows_N[np.argsort(rows_N["high"])]
    same_high = sorted_N["high"][1:] == sorted_N["high"][:-1]
    if (same_high & (sorted_N["low"][1:] != sorted_N["low"][:-1])).any():  # one in 10^19, but it must not matter
        sorted_N = rows_N[np.lexsort((rows_N["low"], rows_N["high"]))]
        same_high = sorted_N["high"][1:] == sorted_N["high"][:-1]
    is_new = ~(same_high & (sorted_N["low"][1:] == sorted_N["low"][:-1]))
    return sorted_N, np.flatnonzero(np.concatenate(([True], is_new)))[: len(sorted_N)]


def num_distinct(digests: Spill) -> int:
    """How many different digests there are; the spill is used up."""
    return sum(len(_grouped(digests.take(bucket))[1]) for bucket in range(digests.num_buckets))


def _num_ones(words_N: Words) -> Ints:
    """Bits that are set in each word (SWAR; NumPy's own is not in 1.26)."""
    x = words_N - ((words_N >> np.uint64(1)) & np.uint64(0x5555_5555_5555_5555))
    x = (x & np.uint64(0x3333_3333_3333_3333)) + ((x >> np.uint64(2)) & np.uint64(0x3333_3333_3333_3333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F_0F0F_0F0F_0F0F)
    ones_N: Ints = ((x * np.uint64(0x0101_0101_0101_0101)) >> np.uint64(56)).astype(np.int64)
    return ones_N
