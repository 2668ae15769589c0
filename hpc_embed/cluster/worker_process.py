"""What a worker's own process does: enter its place, embed the shards that it is handed, tell how it ended."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

from hpc_embed.cluster.places import Place
from hpc_embed.errors import (
    AT_THE_LIMIT,
    FULL_DISK_REMEDY,
    EnvironmentFault,
    HpcEmbedError,
    Interrupted,
    cannot_import,
    in_one_line,
    is_at_the_limit,
    is_full_disk,
)
from hpc_embed.progress import Event, WorkerFailed, WorkerStopped
from hpc_embed.workers.base import BaseEmbeddingWorker

POLL_SECONDS = 0.05
SECONDS_TO_STOP = 60.0
"""A worker that was asked to stop finishes its batch and publishes; after this it is killed."""


class Assignment(NamedTuple):
    """What every worker of a crew is told."""

    worker: BaseEmbeddingWorker
    outputs: Path
    work: Path
    fingerprint: str
    token_budget: int | None
    piece_seconds: float
    digests: Mapping[str, str] | None = None
    """Of the shard files, by name."""


def work(
    assignment: Assignment,
    place: Place,
    todo: multiprocessing.Queue[Path | None],
    events: multiprocessing.Queue[Event],
) -> None:
    """A worker process: embed shards until there are none, or until asked to stop."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGUSR2):  # they reach the whole group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_end_with_parent, args=(stop,), daemon=True).start()
    try:
        assignment.worker.process_files_worker(
            _shards_until_none(todo, stop),
            place.enter(),
            assignment.token_budget,
            assignment.outputs,
            fingerprint=assignment.fingerprint,
            work_dir=assignment.work,
            piece_seconds=assignment.piece_seconds,
            events=events,
            should_stop=stop.is_set,
            digests=assignment.digests,
        )
    except Interrupted:
        events.put(WorkerStopped())
    except HpcEmbedError as error:
        _end(events, WorkerFailed(str(error), "", error.exit_code))
    except BaseException as error:
        if isinstance(error, ImportError):
            error = cannot_import(error)
        if is_at_the_limit(error):
            error = AT_THE_LIMIT
        if isinstance(error, EnvironmentFault):
            _end(events, WorkerFailed(str(error), "", error.exit_code))
        if is_full_disk(error):
            fault = EnvironmentFault(f"{assignment.outputs.parent}: no space left.", remedy=FULL_DISK_REMEDY)
            _end(events, WorkerFailed(str(fault), "", fault.exit_code))
        reason = in_one_line(error)
        _end(events, WorkerFailed(reason, traceback.format_exc(), 1))


def _shards_until_none(todo: multiprocessing.Queue[Path | None], stop: threading.Event) -> Iterator[Path | None]:
    """The shards as they come; None while there is nothing to do."""
    while not stop.is_set():
        try:
            path = todo.get(timeout=POLL_SECONDS)
        except queue.Empty:
            yield None
            continue
        if path is None:
            return
        yield path


def _end(events: multiprocessing.Queue[Event], last: WorkerFailed) -> None:
    """Tell why, and leave without the interpreter's clean-up: a poisoned device hangs there."""
    events.put(last)
    events.close()
    events.join_thread()
    os._exit(last.exit_code)


def _end_with_parent(stop: threading.Event) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    stop.set()
    time.sleep(SECONDS_TO_STOP)
    os._exit(1)
