"""A crew: one spawned worker process per device, fed with shards and watched. The parent never imports torch.

Each worker has two queues of its own, so that one killed in the middle of a write blocks nobody else:

    parent --todo: shard paths, then None--> worker
    parent <------------ events ------------ worker
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

from hpc_embed.cluster.places import Place
from hpc_embed.cluster.signals import signals_held
from hpc_embed.cluster.spawning import no_main
from hpc_embed.cluster.worker_process import POLL_SECONDS, SECONDS_TO_STOP, Assignment, work
from hpc_embed.errors import EnvironmentFault, Interrupted
from hpc_embed.progress import (
    BatchDone,
    BudgetHalved,
    Counting,
    Event,
    ShardFailed,
    ShardFinished,
    ShardStarted,
    WorkerFailed,
    WorkerReady,
    note,
)
from hpc_embed.run.faults import reason
from hpc_embed.run.markers import record_failure

SHARDS_AHEAD = 2
"""So that a worker need not wait for the next; only one at the end, where the others would idle."""
RATE_WINDOW_SECONDS = 30.0
SHARED_MEMORY = Path("/dev/shm")
NO_SHARED_MEMORY = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOSYS)
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Ctrl-C, scancel, and Slurm's warning before the time limit or a preemption."""


class CrewResult(NamedTuple):
    """Names of shards, each in one of two lists."""

    finished: list[str]
    failed: dict[str, str]
    """Reason by shard."""


@dataclass
class _Member:
    """One worker process and the shards in its hands."""

    place: Place
    process: multiprocessing.process.BaseProcess
    todo: multiprocessing.Queue[Path | None]
    events: multiprocessing.Queue[Event]
    assigned: list[Path] = field(default_factory=list)
    current: str | None = None
    is_ready: bool = False
    told_to_end: bool = False
    fault: WorkerFailed | None = None
    """Its last words; they come before its death is seen."""


class Crew:
    """Runs shards on devices until each has finished or failed `max_tries` times."""

    def __init__(self, assignment: Assignment, places: Sequence[Place], max_tries: int) -> None:
        self._assignment = assignment
        self._places = list(places)
        self._max_tries = max_tries
        self._context = multiprocessing.get_context("spawn")
        self._members: list[_Member] = []
        self._finished: list[str] = []
        self._failed: dict[str, str] = {}
        self._false_starts = 0
        self._rates: deque[tuple[float, int]] = deque()
        self._ready_said = False

    def run(self, shards: Sequence[Path], count: Counting) -> CrewResult:
        """Embed the shards.

        Raises Interrupted after a signal to stop, once every worker has published what it finished, and
        EnvironmentFault where no worker can work at all.
        """
        if multiprocessing.current_process().daemon:
            raise EnvironmentFault(
                "workers cannot be started from a daemonic process, such as those of multiprocessing.Pool.",
                remedy="Call it from the main process, or from one of a concurrent.futures.ProcessPoolExecutor.",
            )
        waiting = deque(shards)
        with _signals_noted() as received:
            try:
                self._members = [self._start(place) for place in self._places[: len(shards)]]
                while self._members:
                    for member in list(self._members):
                        self._feed(member, waiting)
                        self._listen(member, waiting, count)
                    if received:
                        self._stop()
                        raise _interruption(received[0])
                    time.sleep(POLL_SECONDS)
            finally:
                self._kill()
        return CrewResult(self._finished, self._failed)

    def _start(self, place: Place) -> _Member:
        while True:
            try:
                with no_main(), signals_held([signal.SIGUSR2]):  # it reaches the group, and kills what still starts
                    return self._started(place)
            except BrokenPipeError:  # the next try has another tracker
                self._count_false_start(place, "Python's resource tracker was killed")

    def _started(self, place: Place) -> _Member:
        try:
            todo: multiprocessing.Queue[Path | None] = self._context.Queue()
            events: multiprocessing.Queue[Event] = self._context.Queue()
        except OSError as error:
            if error.errno not in NO_SHARED_MEMORY:
                raise
            raise EnvironmentFault(
                f"{SHARED_MEMORY}: {reason(error)}; processes share their locks there.",
                remedy="Make room or have it mounted writable (in a container: --bind /dev/shm), then start again.",
            ) from error
        process = self._context.Process(
            target=work, args=(self._assignment, place, todo, events), name=f"hpc-embed worker {place.device}"
        )
        process.start()
        return _Member(place, process, todo, events)

    def _count_false_start(self, place: Place, reason: str) -> None:
        """EnvironmentFault where there are too many."""
        self._false_starts += 1
        if self._false_starts >= self._max_tries:
            raise EnvironmentFault(
                f"workers on {place.device} end before they are ready ({reason}).", remedy="Try `hpc-embed doctor`."
            )

    def _feed(self, member: _Member, waiting: deque[Path]) -> None:
        ahead = SHARDS_AHEAD if len(waiting) > len(self._members) else 1
        while waiting and not member.told_to_end and len(member.assigned) < ahead:
            member.assigned.append(waiting.popleft())
            member.todo.put(member.assigned[-1])
        if not waiting and not member.assigned and not member.told_to_end:
            member.told_to_end = True
            member.todo.put(None)

    def _listen(self, member: _Member, waiting: deque[Path], count: Counting) -> None:
        is_dead = member.process.exitcode is not None  # asked first, so that the last events are still read
        while (event := _next_event(member.events, is_dead)) is not None:
            if isinstance(event, WorkerFailed):
                member.fault = event
            else:
                self._take(member, event, count)
        if is_dead:
            self._members.remove(member)
            if member.process.exitcode != 0 or member.assigned:
                self._replace(member, waiting)

    def _take(self, member: _Member, event: Event, count: Counting) -> None:
        match event:
            case WorkerReady():
                member.is_ready = True
                if not self._ready_said:
                    how = ", ".join(filter(None, (event.precision, event.kernels)))
                    note(f"{event.device}: {how}, batches of {event.token_budget:,} tokens")
                    for each in event.notes:
                        note(f"{event.device}: {each}")
                self._ready_said = True
            case ShardStarted():
                member.current = event.shard
                count.advance(event.num_residues_done)
            case BatchDone():
                count.advance(event.num_residues, self._rate(event.num_tokens))
            case BudgetHalved():
                note(f"out of memory on {member.place.device}: going on with {event.token_budget:,} tokens a batch")
            case ShardFinished():
                self._finished.append(event.shard)
                self._put_down(member, event.shard)
                if event.num_windows_failed:
                    note(f"{event.shard}: {event.num_windows_failed} windows could not be embedded")
            case ShardFailed():
                self._failed[event.shard] = event.reason
                record_failure(self._assignment.outputs, event.shard, event.reason)
                self._put_down(member, event.shard)
                note(f"{event.shard} failed: {event.reason}")

    def _put_down(self, member: _Member, shard: str) -> None:
        member.assigned = [path for path in member.assigned if path.stem != shard]
        if member.current == shard:  # it may be at the next one already
            member.current = None

    def _rate(self, num_tokens: int) -> str:
        now = time.monotonic()
        self._rates.append((now, num_tokens))
        while now - self._rates[0][0] > RATE_WINDOW_SECONDS:
            self._rates.popleft()
        seconds = now - self._rates[0][0]
        total = sum(tokens for _, tokens in self._rates)
        return f"{total / seconds:,.0f} tokens/s" if seconds > 0 else ""

    def _replace(self, member: _Member, waiting: deque[Path]) -> None:
        """A worker died: its shard has one more failed try, the rest go back, a fresh worker takes over."""
        fault = member.fault
        reason = fault.reason if fault else _exit_reason(member.process.exitcode)
        if fault and fault.exit_code != 1:
            raise EnvironmentFault(fault.reason)
        if not member.is_ready:
            self._count_false_start(member.place, reason)
        note(f"worker on {member.place.device} ended: {reason}")
        if fault and os.environ.get("HPC_EMBED_TRACEBACK"):
            note(fault.traceback)
        for path in reversed(member.assigned):
            if path.stem == member.current and self._has_failed_for_good(path, reason):
                self._failed[path.stem] = reason
            else:
                waiting.appendleft(path)
        if waiting:
            self._members.append(self._start(member.place))

    def _has_failed_for_good(self, path: Path, reason: str) -> bool:
        return record_failure(self._assignment.outputs, path.stem, reason).tries >= self._max_tries

    def _stop(self) -> None:
        for member in self._members:
            member.process.terminate()
        deadline = time.monotonic() + SECONDS_TO_STOP
        for member in self._members:
            while member.process.exitcode is None and time.monotonic() < deadline:
                _next_event(member.events, False)  # a full pipe would keep the worker from ending
                wait([member.process.sentinel], timeout=POLL_SECONDS)

    def _kill(self) -> None:
        for member in self._members:
            if member.process.exitcode is None:
                member.process.kill()
            member.process.join()
            member.todo.cancel_join_thread()


def _interruption(number: int) -> Interrupted:
    interruption = Interrupted(
        f"stopped by {signal.Signals(number).name}; finished work is kept.",
        remedy="The same command goes on from there.",
    )
    interruption.signal_number = number
    return interruption


def _next_event(events: multiprocessing.Queue[Event], is_dead: bool) -> Event | None:
    try:
        return events.get(timeout=POLL_SECONDS) if is_dead else events.get_nowait()
    except queue.Empty:
        return None


def _exit_reason(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return f"exit code {exit_code}"


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Note the signals to stop instead of dying of them; a second SIGINT ends the program at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def take(number: int, _frame: object) -> None:
        if received and number == signal.SIGINT:
            raise Interrupted("stopped at once.", remedy="The same command goes on from the last piece.")
        if not received:
            note("stopping: workers publish what they have finished …")
        received.append(number)

    before = {number: signal.signal(number, take) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
