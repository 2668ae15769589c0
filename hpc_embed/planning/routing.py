"""Windows brought to their shards: first to groups of shards that fit in memory, then group by group to files."""

# N = unique windows of a block or a group, S = shards

from __future__ import annotations

from concurrent.futures import Executor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hpc_embed.planning.spill import Rows, Spill
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.shards import write_shard
from hpc_embed.sequences import kernel
from hpc_embed.sequences.kernel import Bytes, Ints

ROUTED = np.dtype([("key", "<i8"), ("length", "<i8"), ("shard", "<i4")])
GROUP_BYTES = 64 << 20
"""Letters and rows of one group; a thread that writes its shards takes some three times as much."""
FEWEST_GROUPS = 8
"""For the threads to share, where there are as many shards."""


class Sorted(NamedTuple):
    """Windows of a block by the group that they go to."""

    groups: list[int]
    edges: list[int]
    """Where the windows of each group begin, and the end."""
    rows_N: Rows
    letters: Bytes
    letter_edges: Ints
    """Where the letters of each group begin, and the end."""


class Routing:
    """The way of the windows to their shards."""

    def __init__(self, bytes_S: NDArray[np.float64], folder: Path, memory_bytes: int, threads: Executor) -> None:
        """`bytes_S`: what the letters and the rows of each shard take."""
        self._edges = _group_edges(bytes_S)
        num_groups = len(self._edges) - 1
        self._group_S = np.repeat(np.arange(num_groups), np.diff(self._edges))
        self._rows = Spill(folder, "rows", ROUTED, num_groups, memory_bytes // 4, threads)
        self._letters = Spill(folder, "letters", np.dtype(np.uint8), num_groups, memory_bytes // 2, threads)

    @property
    def num_groups(self) -> int:
        return len(self._edges) - 1

    def sort(self, keys_N: Ints, lengths_N: Ints, shard_N: NDArray[np.int32], letters: Bytes, starts_N: Ints) -> Sorted:
        """Sort windows, which begin in `letters` at `starts_N`, by the group that they go to; in any thread."""
        rows_N = np.empty(len(keys_N), dtype=ROUTED)
        rows_N["key"], rows_N["length"], rows_N["shard"] = keys_N, lengths_N, shard_N
        group_N = self._group_S[shard_N]
        order_N = np.argsort(group_N.astype(np.uint16), kind="stable")
        rows_N, lengths_N = rows_N[order_N], lengths_N[order_N]
        stops_N = np.concatenate(([0], np.cumsum(lengths_N)))
        groups, starts = np.unique(group_N[order_N], return_index=True)
        edges = np.append(starts, len(rows_N))
        gathered = kernel.gather(letters, starts_N[order_N], lengths_N)
        return Sorted(groups.tolist(), edges.tolist(), rows_N, gathered, stops_N[edges])

    def add(self, windows: Sorted) -> None:
        """Send windows on their way, in the order of their keys."""
        edges, letter_edges = pairwise(windows.edges), pairwise(windows.letter_edges.tolist())
        for group, rows, letters in zip(windows.groups, edges, letter_edges, strict=True):
            self._rows.append(group, windows.rows_N[slice(*rows)])
            self._letters.append(group, windows.letters[slice(*letters)])
        self._rows.relieve()
        self._letters.relieve()

    def write_group(self, group: int, layout: RunLayout, publishers: Executor) -> list[str]:
        """Write the shards of one group, several at a time since each waits for the disk; their digests."""
        rows_N, content = self._rows.take(group), self._letters.take(group)
        first, stop = int(self._edges[group]), int(self._edges[group + 1])
        starts_N = np.cumsum(rows_N["length"]) - rows_N["length"]
        order_N = np.argsort((rows_N["shard"] - first).astype(np.uint16), kind="stable")
        rows_N, starts_N = rows_N[order_N], starts_N[order_N]
        keys_N, shard_N, lengths_N = (np.ascontiguousarray(rows_N[name]) for name in ("key", "shard", "length"))
        letters = _large_binary(kernel.gather(content, starts_N, lengths_N), lengths_N)
        edges = np.searchsorted(shard_N, np.arange(first, stop + 1)).tolist()
        spans = list(zip(range(first, stop), pairwise(edges), strict=True))

        def publish(shard: int, span: tuple[int, int]) -> str:
            return write_shard(layout.shard(shard), keys_N[slice(*span)], letters[slice(*span)])

        return [published.result() for published in [publishers.submit(publish, *one) for one in spans]]


def _group_edges(num_bytes_S: NDArray[np.float64]) -> Ints:
    """Where groups of neighbouring shards begin and end; each is of at most GROUP_BYTES, or a single shard."""
    most = min(GROUP_BYTES, num_bytes_S.sum() / FEWEST_GROUPS)
    edges, so_far = [0], 0
    for shard, num_bytes in enumerate(num_bytes_S.tolist()):
        if shard > edges[-1] and (so_far + num_bytes > most or shard - edges[-1] >= 1 << 16):
            edges.append(shard)
            so_far = 0
        so_far += num_bytes
    return np.array([*edges, len(num_bytes_S)])


def _large_binary(content: Bytes, lengths_N: Ints) -> pa.LargeBinaryArray:
    """Sequences that stand side by side, as an array of them; nothing is copied."""
    offsets = np.concatenate(([0], np.cumsum(lengths_N)))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(content)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(lengths_N), buffers)
