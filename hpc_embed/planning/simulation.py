"""A run before it is run: which device is busy with what, from event to event.

Array elements start in order, each on the first device that is free, as Slurm starts them. An element starts up, embeds
its shards one after the other and ends; a device that is taken away in between gives its element back, which starts
again later and goes on from the pieces that it has published. The file server answers so many operations a second,
and sends out so many bytes, one request after the other.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from typing import NamedTuple

OPERATIONS_OF_PYTHON = 30_000
"""File calls of an element and its worker until the first batch, torch and transformers with them, by strace."""
OPERATIONS_OF_AN_IMAGE = 50
"""The same where Python lies in an image or on the node's own disk: those in the run folder are left."""
OPERATIONS_OF_A_SHARD = 25
OPERATIONS_OF_A_PIECE = 10
"""Of reading, writing and naming, counted through the seam to storage."""


class Site(NamedTuple):
    """What a run meets. Rates are per device."""

    num_devices: int
    """Used at once: of the partition, or of --array-parallelism."""
    speeds: tuple[float, ...] = (1.0,)
    """Of the devices, in turn; 1 is the speed that the shards' seconds are given for."""
    start_seconds: float = 30.0
    """From the start of an element to its first batch: Python, torch, the model onto the device."""
    shard_seconds: float = 1.0
    """Of a shard beside its embedding."""
    schedule_seconds: float = 2.0
    """From the end of an element to the start of the next on its device."""
    taken_per_hour: float = 0.0
    """Preemptions and failures of nodes."""
    away_seconds: float = 600.0
    """How long a device that was taken away stays so, and its element waits at least."""
    piece_seconds: float = 15.0
    """Work that is lost with a device: what no piece holds yet."""
    start_operations: int = OPERATIONS_OF_PYTHON
    """Of each start, on the file server."""
    weight_bytes: float = 0.0
    """Read from the file server by each start."""
    server_operations: float = 20_000.0
    """A second, of the file server."""
    server_bytes: float = 10e9
    """A second."""


class Simulated(NamedTuple):
    """What came of it."""

    makespan_seconds: float
    """From the first start to the end of the last shard."""
    device_seconds: float
    """Held, by all devices together."""
    starting_seconds: float
    """Of these, before first batches: Python, the model, and waiting for the file server."""
    lost_seconds: float
    """Of these, for work that was done again."""
    num_starts: int
    num_taken: int
    operations: int
    """Of the file server."""
    longest_wait_seconds: float
    """Of a start, for the file server."""


def simulate(shard_seconds: Sequence[float], shards_per_task: int, site: Site, seed: int = 0) -> Simulated:
    """Run the shards of a plan, each of which takes so many seconds at speed 1, on a site.

    The same seed gives the same run.
    """
    return _Run(shard_seconds, shards_per_task, site, seed).until_the_end()


class _Element(NamedTuple):
    left: list[float]
    """Seconds of the shards that are still to be embedded, the next last."""
    not_before: float


class _Run:
    def __init__(self, shard_seconds: Sequence[float], shards_per_task: int, site: Site, seed: int) -> None:
        self._site, self._draw = site, random.Random(seed)
        starts = range(0, len(shard_seconds), shards_per_task)
        self._waiting = [
            (0.0, number, [*reversed(shard_seconds[start : start + shards_per_task])])
            for number, start in enumerate(starts)
        ]
        """Elements by the time before which they must not start, and their number."""
        heapq.heapify(self._waiting)
        self._devices = [(0.0, number) for number in range(min(site.num_devices, len(self._waiting)))]
        """By the time from which each is free."""
        self._server_free = 0.0
        self._end = self._held = self._starting = self._lost = self._longest_wait = 0.0
        self._num_starts = self._num_taken = self._operations = 0

    def until_the_end(self) -> Simulated:
        while self._waiting:
            free, device = heapq.heappop(self._devices)
            not_before, number, left = heapq.heappop(self._waiting)
            self._embed(max(free, not_before), device, number, left)
        return Simulated(
            self._end, self._held, self._starting, self._lost, self._num_starts, self._num_taken, self._operations,
            self._longest_wait,
        )  # fmt: skip

    def _embed(self, began: float, device: int, number: int, left: list[float]) -> None:
        """One start of an element on a device, up to its end or until the device is taken away."""
        site = self._site
        speed = site.speeds[device % len(site.speeds)]
        rate = site.taken_per_hour / 3600
        taken = began + (self._draw.expovariate(rate) if rate else math.inf)
        now = self._served(began, site.start_operations, site.weight_bytes) + site.start_seconds
        self._num_starts += 1
        self._longest_wait = max(self._longest_wait, now - site.start_seconds - began)
        self._starting += min(now, taken) - began
        while left and now < taken:
            ends = now + site.shard_seconds + left[-1] / speed
            if ends <= taken:
                self._operations += OPERATIONS_OF_A_SHARD + self._operations_of_pieces(left[-1] / speed)
                left.pop()
                self._end = max(self._end, ends)
            else:
                done = max(taken - now - site.shard_seconds, 0.0)
                kept = done - done % site.piece_seconds
                self._operations += self._operations_of_pieces(kept)
                self._lost += done - kept
                left[-1] -= kept * speed
            now = ends
        ended = min(now, taken)
        self._held += ended - began
        if left:
            self._num_taken += 1
            heapq.heappush(self._waiting, (ended + site.away_seconds, number, left))
        free = ended + (site.away_seconds if left else site.schedule_seconds)
        heapq.heappush(self._devices, (free, device))

    def _served(self, now: float, operations: int, num_bytes: float) -> float:
        """When the file server has answered: one request after the other."""
        seconds = operations / self._site.server_operations + num_bytes / self._site.server_bytes
        self._server_free = max(self._server_free, now) + seconds
        self._operations += operations
        return self._server_free

    def _operations_of_pieces(self, seconds: float) -> int:
        return OPERATIONS_OF_A_PIECE * int(seconds / self._site.piece_seconds)
