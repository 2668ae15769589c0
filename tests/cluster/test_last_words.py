"""A worker's process tells why it ended, however long the reason is, and ends with the code that goes with it."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hpc_embed.cluster.places import Place
from hpc_embed.cluster.worker_process import Assignment, work
from hpc_embed.errors import EnvironmentFault, Interrupted
from hpc_embed.progress import WorkerFailed, WorkerStopped
from hpc_embed.workers.base import BaseEmbeddingWorker

FORK = multiprocessing.get_context("fork")
LONG = "x" * 1_000_000
"""More than a pipe holds: gone where the process does not wait until it is read."""


class Ends:
    """A worker that ends at once, in one way."""

    def __init__(self, end: Callable[[], object]) -> None:
        self._end = end

    def process_files_worker(self, *_: object, **__: object) -> None:
        self._end()


def raises(error: BaseException) -> Callable[[], object]:
    def end() -> None:
        raise error

    return end


def last_words(end: Callable[[], object], outputs: Path) -> tuple[list[Any], int | None]:
    """What a worker's process tells, and its exit code."""
    worker = cast(BaseEmbeddingWorker, Ends(end))
    todo: Any = FORK.Queue()
    events: Any = FORK.Queue()
    place = cast(Place, SimpleNamespace(enter=lambda: "cpu"))
    process = FORK.Process(target=work, args=(Assignment(worker, outputs, outputs, "f", 1, 1.0), place, todo, events))
    process.start()
    events._writer.close()  # else a message that breaks off is waited for without end
    told = []
    if end not in QUIET:
        told.append(events.get(timeout=20))
    process.join(20)
    assert process.exitcode is not None
    with pytest.raises(EOFError):
        events.get(timeout=20)  # nothing more, and nobody who could say more
    return told, process.exitcode


def nothing() -> None:
    """All shards are done."""


def killed() -> None:
    os.kill(os.getpid(), 9)


QUIET = (nothing, killed)


def test_a_fault_of_ours_is_told_whole_with_its_code(tmp_path: Path) -> None:
    (told,), code = last_words(raises(EnvironmentFault(LONG, remedy="Mend it.")), tmp_path)
    assert told == WorkerFailed(f"{LONG} Mend it.", "", 5)
    assert code == 5


def test_a_bug_is_told_with_its_traceback(tmp_path: Path) -> None:
    (told,), code = last_words(raises(ValueError(LONG)), tmp_path)
    assert isinstance(told, WorkerFailed)
    assert LONG[:100] in told.reason
    assert "\n" not in told.reason
    assert told.traceback.startswith("Traceback ")
    assert f"ValueError: {LONG}" in told.traceback
    assert (told.exit_code, code) == (1, 1)


def test_a_full_disk_is_no_bug_and_names_the_run_folder(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    (told,), code = last_words(raises(full), tmp_path / "outputs")
    assert (told.reason.startswith(f"{tmp_path}: no space left."), told.traceback) == (True, "")
    assert (told.exit_code, code) == (5, 5)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), MemoryError()], ids=lambda error: repr(error))
def test_what_is_no_exception_of_the_code_is_told_too(error: BaseException, tmp_path: Path) -> None:
    (told,), code = last_words(raises(error), tmp_path)
    assert type(error).__name__ in told.traceback
    assert code == 1


def test_one_that_was_asked_to_stop_says_so_and_has_not_failed(tmp_path: Path) -> None:
    assert last_words(raises(Interrupted("stopped")), tmp_path) == ([WorkerStopped()], 0)


def test_one_that_is_done_or_killed_says_nothing(tmp_path: Path) -> None:
    assert last_words(nothing, tmp_path) == ([], 0)
    assert last_words(killed, tmp_path) == ([], -9)
