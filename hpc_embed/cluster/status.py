"""How far a run is: markers, failures and pieces tell what is done, Slurm what is being done.

The files are right without Slurm, also long after the submitting process is gone; the queue adds who works on
the rest, and the accounting, where a site has it, how a task ended.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import NamedTuple

from hpc_embed.cluster.slurm import ArrayElement, ended_elements, queued_elements
from hpc_embed.cluster.submission import Submission, read_submissions
from hpc_embed.errors import EnvironmentFault
from hpc_embed.run.layout import RunLayout, shard_name
from hpc_embed.run.markers import is_done, read_failure, read_marker
from hpc_embed.run.pieces import num_windows_in_pieces, seconds_of_pieces
from hpc_embed.run.plan import Plan

LOG_LINES = 5
ENDINGS = {
    "TIMEOUT": "reached its time limit",
    "NODE_FAIL": "lost its node",
    "OUT_OF_MEMORY": "ran out of the host memory that it asked for (--memory-gibibytes)",
    "CANCELLED": "was cancelled",
    "PREEMPTED": "was preempted and not requeued",
    "FAILED": "failed",
    "COMPLETED": "ended without finishing the shard",
}


class ShardStatus(NamedTuple):
    """One shard's state."""

    shard: str
    state: str
    """done, running, queued, failed, begun (has pieces, nobody works on it) or missing."""
    num_windows: int
    num_windows_done: int
    windows_per_second: float
    """Of a running shard, by its pieces."""
    seconds_left: float | None
    reason: str
    """Why it failed or waits, or where it runs."""
    task: str
    """Slurm's name of the array element that has it, empty for none."""
    log: str
    """Its log file, empty for none."""


class RunStatus(NamedTuple):
    """A run's state."""

    run_dir: str
    model: str
    slurm: str
    """Empty where Slurm answered or was not needed, else why it did not."""
    shards: list[ShardStatus]
    is_gathered: bool

    def count(self, state: str) -> int:
        """Shards in that state."""
        return sum(shard.state == state for shard in self.shards)


def run_status(plan: Plan, layout: RunLayout) -> RunStatus:
    """Look at every shard, and ask Slurm where the run was submitted."""
    submissions = read_submissions(layout)
    fault = ""
    queued: dict[int, ArrayElement] = {}
    try:
        queued = _by_shard(submissions, queued_elements([one.job for one in submissions]))
    except EnvironmentFault as error:
        fault = str(error)
    ended = {} if fault else _by_shard(submissions, ended_elements([one.job for one in submissions]))
    shards = [
        _shard_status(plan, layout, index, queued.get(index), ended.get(index)) for index in range(len(plan.shards))
    ]
    return RunStatus(str(layout.root), plan.model.name, fault, shards, layout.dataset_facts.exists())


def last_lines(log: str) -> list[str]:
    """The end of a log file; nothing where it cannot be read."""
    try:
        with Path(log).open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, LOG_LINES)]
    except OSError:
        return []


def _by_shard(submissions: list[Submission], elements: list[ArrayElement]) -> dict[int, ArrayElement]:
    """The newest element of each shard: later submissions come later in the list."""
    order = {submission.job: place for place, submission in enumerate(submissions)}
    tasks = {submission.job: submission.tasks for submission in submissions}
    found: dict[int, ArrayElement] = {}
    for element in sorted(elements, key=lambda element: order[element.job]):
        if element.task < len(tasks[element.job]):
            found.update(dict.fromkeys(tasks[element.job][element.task], element))
    return found


def _shard_status(
    plan: Plan, layout: RunLayout, index: int, queued: ArrayElement | None, ended: ArrayElement | None
) -> ShardStatus:
    name, num_windows = shard_name(index), plan.shards[index].num_windows
    element = queued or ended
    status = ShardStatus(
        shard=name,
        state="missing",
        num_windows=num_windows,
        num_windows_done=0,
        windows_per_second=0.0,
        seconds_left=None,
        reason="",
        task=f"{element.job}_{element.task}" if element else "",
        log=_log(layout, element),
    )
    if is_done(layout.outputs, name, plan.fingerprint):
        marker = read_marker(layout.outputs, name)
        num_failed = len(marker.failed_windows) if marker else 0
        reason = f"{num_failed} windows failed" if num_failed else ""
        return status._replace(state="done", num_windows_done=num_windows - num_failed, reason=reason)
    num_done = num_windows_in_pieces(layout.pieces(index))
    status = status._replace(num_windows_done=num_done)
    if queued and queued.state in ("RUNNING", "COMPLETING"):
        seconds = seconds_of_pieces(layout.pieces(index))
        rate = num_done / seconds if seconds else 0.0
        left = (num_windows - num_done) / rate if rate else None
        where = f"on {queued.detail}"
        return status._replace(state="running", windows_per_second=rate, seconds_left=left, reason=where)
    if queued:
        return status._replace(state="queued", reason=queued.detail)
    if failure := read_failure(layout.outputs, name):
        return status._replace(state="failed", reason=f"{failure.tries} tries: {failure.reason}")
    if ended:
        ending = ENDINGS.get(ended.state, ended.state.lower())
        return status._replace(state="failed", reason=f"its task {ending} (exit code {ended.detail})")
    return status._replace(state="begun" if num_done else "missing")


def _log(layout: RunLayout, element: ArrayElement | None) -> str:
    if element is None:
        return ""
    folder = layout.logs / element.job
    names = (f"{element.job}_{element.task}_0_log.err", f"{element.job}_0_log.err")
    return next((str(folder / name) for name in names if (folder / name).exists()), "")
