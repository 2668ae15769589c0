"""What runs on a node: submitit's entry points. Importable, so pickled by reference, and without torch.

Before the time limit, and on preemption where the site sends it, Slurm signals SIGUSR2. The workers publish
their pieces, the task ends with REQUEUE_EXIT_CODE, and the batch script, which runs on the host with Slurm's
tools also where the task is in an image, requeues the job.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from hpc_embed.cluster.crew import CrewResult
from hpc_embed.cluster.devices import choose_devices
from hpc_embed.cluster.task import embed_shards
from hpc_embed.config import GatherSettings, WorkSettings
from hpc_embed.errors import HpcEmbedError, Incomplete, Interrupted
from hpc_embed.progress import note
from hpc_embed.registry import find_model
from hpc_embed.results.gather import gather
from hpc_embed.run.files import this_process
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import num_finished
from hpc_embed.run.plan import Plan, read_plan

REQUEUE_EXIT_CODE = 85
REQUEUE_LINE = (
    f'hpc_embed_code=$?; if [ $hpc_embed_code -eq {REQUEUE_EXIT_CODE} ]; then scontrol requeue "$SLURM_JOB_ID"; fi; '
    "exit $hpc_embed_code"
)
"""The last line of the batch script."""


def embed_array_task(run_dir: str, shards: Sequence[int], settings: WorkSettings) -> None:
    """Embed the shards of one array element; ends the process with its exit code."""
    layout = RunLayout(Path(run_dir))
    try:
        outcome = run_shards(read_plan(layout.plan), layout, shards, settings)
    except HpcEmbedError as error:
        print(f"hpc-embed: {error}", file=sys.stderr)
        _end(error.exit_code)
    _end(outcome.exit_code)


def gather_task(run_dir: str, settings: GatherSettings) -> None:
    """Gather once the arrays have ended; ends the process with its exit code."""
    layout = RunLayout(Path(run_dir))
    try:
        gathered = gather(read_plan(layout.plan), layout, settings)
    except HpcEmbedError as error:
        print(f"hpc-embed: {error}", file=sys.stderr)
        _end(error.exit_code)
    print(f"dataset {gathered.dataset}: {gathered.statuses}")
    _end(Incomplete.exit_code if gathered.statuses.get("failed") else 0)


class TaskOutcome(NamedTuple):
    """What became of a task's shards."""

    exit_code: int
    """0, 6 for failed shards, REQUEUE_EXIT_CODE for a task that has more to do in another start."""
    result: CrewResult


def run_shards(plan: Plan, layout: RunLayout, shards: Sequence[int], settings: WorkSettings) -> TaskOutcome:
    """Embed shards; on SIGUSR2 stop early and ask for a requeue, unless starts bring nothing any more.

    Raises Interrupted for the other signals.
    """
    job = f"{os.environ.get('SLURM_ARRAY_JOB_ID', '-')}_{os.environ.get('SLURM_ARRAY_TASK_ID', '-')}"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    start = int(os.environ.get("SLURM_RESTART_COUNT") or 0) + 1
    note(f"{this_process()}: task {job}, start {start}, CUDA_VISIBLE_DEVICES={visible}, {len(shards)} shards")
    before = _num_windows_done(plan, layout, shards)
    devices = choose_devices(settings, find_model(plan.model.registry_name))
    try:
        result = embed_shards(plan, layout, shards, settings, devices)
    except Interrupted as interruption:
        if interruption.signal_number != signal.SIGUSR2:
            raise
        note(f"hpc-embed: {interruption}")
        if start >= settings.max_tries and _num_windows_done(plan, layout, shards) == before:
            note(f"{start} starts and this one finished no window: not requeued. Give more time, or look at the log.")
            return TaskOutcome(Incomplete.exit_code, CrewResult([], {}))
        return TaskOutcome(REQUEUE_EXIT_CODE, CrewResult([], {}))
    return TaskOutcome(Incomplete.exit_code if result.failed else 0, result)


def _num_windows_done(plan: Plan, layout: RunLayout, shards: Sequence[int]) -> int:
    return sum(num_finished(layout, index, plan) for index in shards)


def _end(code: int) -> NoReturn:
    """Leave before submitit turns the result into a pickle: the markers are the result."""
    raise SystemExit(code)
