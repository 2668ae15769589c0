"""The shards of one array element: when to stop, and what to tell the batch script.

Before the time limit, and on preemption where the site sends it, Slurm signals SIGUSR2; a preemption with a grace
period, or scancel, sends SIGTERM. The workers publish their pieces, and the task leaves a last word for the batch
script, which runs on the host with Slurm's tools also where the task is in an image, and requeues the job.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from hpc_embed.cluster.crew import CrewResult
from hpc_embed.cluster.devices import choose_devices
from hpc_embed.cluster.task import embed_shards
from hpc_embed.config import WorkSettings
from hpc_embed.errors import Incomplete, Interrupted, RunConflict
from hpc_embed.progress import note
from hpc_embed.registry import find_model
from hpc_embed.run.files import this_process, whole_file
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import num_finished
from hpc_embed.run.plan import Plan

REQUEUE_EXIT_CODE = 85
WORD_VARIABLE = "HPC_EMBED_WORD"
"""Names the file for a task's last word to its batch script."""
STOP_VARIABLE = "HPC_EMBED_STOP_AT"
"""When a task stops by itself, in seconds since the epoch: Slurm's signal may come before anybody hears it."""


class TaskOutcome(NamedTuple):
    """What became of a task's shards."""

    exit_code: int
    """0, 6 for failed shards, REQUEUE_EXIT_CODE for a task that has more to do in another start."""
    result: CrewResult


def run_shards(plan: Plan, layout: RunLayout, shards: Sequence[int], settings: WorkSettings) -> TaskOutcome:
    """Embed shards; on SIGUSR2, or when it is time, stop early and ask for another start.

    Raises Interrupted for the other signals.
    """
    job = f"{os.environ.get('SLURM_ARRAY_JOB_ID', '-')}_{os.environ.get('SLURM_ARRAY_TASK_ID', '-')}"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    start = int(os.environ.get("SLURM_RESTART_COUNT") or 0) + 1
    note(f"{this_process()}: task {job}, start {start}, CUDA_VISIBLE_DEVICES={visible}, {len(shards)} shards")
    if _seconds_left() <= 0:
        note("the time for this start was over before it began: setup took it all. Give more --time-minutes.")
        _say("idle")
        return TaskOutcome(REQUEUE_EXIT_CODE, CrewResult([], {}))
    before = _num_windows_done(plan, layout, shards)
    devices = choose_devices(settings, find_model(plan.model.registry_name))
    try:
        with _stopping_in_time():
            result = embed_shards(plan, layout, shards, settings, devices)
    except Interrupted as interruption:
        if interruption.signal_number != signal.SIGUSR2:
            _say("stopped")
            raise
        note(f"hpc-embed: {interruption}")
        _say("again" if _num_windows_done(plan, layout, shards) > before else "idle")
        return TaskOutcome(REQUEUE_EXIT_CODE, CrewResult([], {}))
    except FileNotFoundError as error:
        if layout.plan.exists():
            raise
        raise RunConflict(
            f"{layout.root} is not there any more.", remedy="Put it back, or submit again from where it is now."
        ) from error
    return TaskOutcome(Incomplete.exit_code if result.failed else 0, result)


def _num_windows_done(plan: Plan, layout: RunLayout, shards: Sequence[int]) -> int:
    return sum(num_finished(layout, index, plan) for index in shards)


@contextmanager
def _stopping_in_time() -> Iterator[None]:
    """Signal ourselves when the batch script said, since Slurm's own signal may have come while nobody listened."""
    timer = threading.Timer(min(_seconds_left(), threading.TIMEOUT_MAX), os.kill, (os.getpid(), signal.SIGUSR2))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _seconds_left() -> float:
    """Until this start should stop by itself; endless outside of a batch script."""
    moment = os.environ.get(STOP_VARIABLE, "")
    return int(moment) - time.time() if moment.isdecimal() else math.inf


def _say(word: Literal["again", "idle", "stopped"]) -> None:
    """Leave a last word for the batch script; where it cannot be written, the exit code has to do."""
    if path := os.environ.get(WORD_VARIABLE):
        with suppress(OSError), whole_file(Path(path)) as file:
            file.write(word.encode("ascii"))
