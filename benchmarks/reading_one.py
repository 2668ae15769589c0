"""One dataset of `benchmarks.reading` in a fresh process that has loaded nothing else.

    python -m benchmarks.reading_one RUN

Prints Figures as JSON.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

import hpc_embed

NUM_COLD, NUM_WARM, NUM_PEER = 200, 20_000, 3


class Reading(NamedTuple):
    """What reading took. Pairs are microseconds at the median and at the 99th of a hundred."""

    open_milliseconds: float
    cold: tuple[float, float]
    """Nothing of the files was in the machine's memory."""
    warm: tuple[float, float]
    """All of it was, though this process had read none of it."""
    same: tuple[float, float]
    """Records that were read before."""
    resident_mebibytes: float
    """After all of these."""
    scanned_per_second: float
    peer: tuple[float, float]
    """Parquet's own reader with a filter on the id, warm."""


def forget(paths: Sequence[Path]) -> None:
    """Have the machine drop what it holds of some files."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def remember(paths: Sequence[Path]) -> None:
    """Have the machine read some files."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass


def microseconds(names: Sequence[str], read: Callable[[str], object]) -> tuple[float, float]:
    """For each name."""
    times = []
    for name in names:
        started = time.perf_counter()
        read(name)
        times.append(1e6 * (time.perf_counter() - started))
    return float(np.median(times)), float(np.quantile(times, 0.99))


def read(run: Path) -> Reading:
    """Read one dataset in every way."""
    parts = sorted((run / "dataset").iterdir())
    num_records = sum(pq.read_metadata(path).num_rows for path in parts)
    paths, draw = [run / "dataset-index.npz", *parts], random.Random(1)
    names = [f"UniRef50_A{draw.randrange(num_records):09d}" for _ in range(NUM_COLD + NUM_WARM)]
    forget(paths)
    started = time.perf_counter()
    dataset = hpc_embed.open_dataset(run)
    opened = time.perf_counter()
    cold = microseconds(names[:NUM_COLD], dataset.__getitem__)
    remember(paths)
    warm = microseconds(names[NUM_COLD:], dataset.__getitem__)
    same = microseconds(names[:NUM_COLD] * 10, dataset.__getitem__)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)
    scanning = time.perf_counter()
    num_read = sum(len(batch.vectors_RD) for batch in dataset.batches())
    scanned = num_read / (time.perf_counter() - scanning)
    peer = microseconds(names[:NUM_PEER], lambda name: pq.read_table(run / "dataset", filters=[("id", "==", name)]))
    return Reading(1000 * (opened - started), cold, warm, same, resident, scanned, peer)


if __name__ == "__main__":
    print(json.dumps(read(Path(sys.argv[1]))))
