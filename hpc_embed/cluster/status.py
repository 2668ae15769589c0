"""How far a run is: markers, failures and pieces tell what is done, Slurm what is being done.

The files are right without Slurm, also long after the submitting process is gone; the queue adds who works on
the rest, and the accounting, where a site has it, how a task ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hpc_embed.cluster.slurm import Element
from hpc_embed.cluster.submission import read_submissions
from hpc_embed.cluster.whereabouts import NOT_ENDED, Endings, Whereabouts, whereabouts
from hpc_embed.errors import EnvironmentFault
from hpc_embed.run import files
from hpc_embed.run.faults import patiently
from hpc_embed.run.layout import SHARDS_PER_FOLDER, RunLayout, shard_name
from hpc_embed.run.markers import UNCOMPILED, read_failure, read_marker
from hpc_embed.run.pieces import num_windows_in_pieces, seconds_of_pieces
from hpc_embed.run.plan import Plan
from hpc_embed.run.shard_table import ShardFacts
from hpc_embed.run.survey import Survey, survey

LOG_LINES = 5
LOOKED_AT = 3
"""Finished shards whose markers are read; a run can have any number."""
ENDINGS = {
    "TIMEOUT": "reached its time limit",
    "NODE_FAIL": "lost its node",
    "OUT_OF_MEMORY": "ran out of the host memory that it asked for (--memory-gibibytes)",
    "CANCELLED": "was cancelled",
    "PREEMPTED": "was preempted and not requeued",
    "BOOT_FAIL": "found no node that would start",
    "DEADLINE": "passed its deadline",
    "FAILED": "failed",
    "COMPLETED": "ended without finishing the shard",
}
NOT_SEEN = "0:53"
"""Exit code of an element whose node could not open its log."""
KILLED = ("9:0", "0:9", "137:0", "0:125")


class ShardStatus(NamedTuple):
    """One shard's state."""

    shard: str
    state: str
    """done, running, suspended, queued, failed, begun (has pieces, nobody works on it) or missing."""
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
    gather_job: str
    """The gather job that waits or runs, and why: `17 (PENDING, Dependency)`; empty for none."""
    is_gathered: bool
    is_over: bool
    """True where something was submitted and nothing of it waits or runs any more."""
    notes: list[str]
    """What else a user should know."""

    def count(self, state: str) -> int:
        """Shards in that state."""
        return sum(shard.state == state for shard in self.shards)


def run_status(plan: Plan, layout: RunLayout, endings: Endings | None = None) -> RunStatus:
    """Look at every shard, and ask Slurm where the run was submitted; `endings` are kept from one look to the next."""
    fault, where = "", None
    try:
        where = whereabouts(layout)
    except EnvironmentFault as error:
        fault = str(error)
    submissions = where.submissions if where else read_submissions(layout)[0]
    seen = survey(layout, len(plan.shards))
    left = [i for i in range(len(plan.shards)) if i not in seen.done and where is not None and i not in where.alive]
    ended = (endings or Endings()).by_shard(submissions, left) if left else {}
    folders = {submission.job: layout.logs / submission.token for submission in submissions}
    return RunStatus(
        run_dir=str(layout.root),
        model=plan.model.name,
        slurm=fault,
        shards=[
            _shard_status(facts, layout, index, seen, where, ended.get(index), folders)
            for index, facts in enumerate(plan.shards)
        ],
        gather_job=", ".join(f"{job.job} ({job.state}, {job.detail})" for job in where.gathers) if where else "",
        is_gathered=_is_gathered(layout),
        is_over=where is not None and where.is_over,
        notes=[*([one.error.message for one in where.damaged] if where else []), *_slow_nodes(layout, seen)],
    )


def _slow_nodes(layout: RunLayout, seen: Survey) -> list[str]:
    """Of a few finished shards, whose GPU had to go on without kernels of ours."""
    markers = [read_marker(layout.outputs, shard_name(index)) for index in sorted(seen.done)[-LOOKED_AT:]]
    hosts = {m.facts.process for m in markers if m and m.facts.versions.get("chains") == UNCOMPILED}
    return [f"{host}: chains compiled: no, its log says why" for host in sorted(hosts)]


def _is_gathered(layout: RunLayout) -> bool:
    """By a listing: where its absence was just seen, NFS would tell of it for another minute."""
    return layout.dataset_facts.name in patiently(lambda: files.storage.names(layout.root), layout.root)


def last_lines(log: str) -> list[str]:
    """The end of a log file; nothing where it cannot be read."""
    try:
        with Path(log).open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, LOG_LINES)]
    except OSError:
        return []


def _shard_status(
    facts: ShardFacts,
    layout: RunLayout,
    index: int,
    seen: Survey,
    where: Whereabouts | None,
    ended: Element | None,
    folders: Mapping[str, Path],
) -> ShardStatus:
    name, num_windows = shard_name(index), facts.num_windows
    queued = where.alive.get(index) if where else None
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
        log=_log(folders, element),
    )
    if index in seen.done:
        # only a small run is asked for its failed windows: each would be a file to open
        marker = read_marker(layout.outputs, name) if len(seen.done) <= SHARDS_PER_FOLDER else None
        num_failed = len(marker.failed_windows) if marker else 0
        reason = f"{num_failed} windows failed" if num_failed else ""
        return status._replace(state="done", num_windows_done=num_windows - num_failed, reason=reason)
    num_done = num_windows_in_pieces(layout.pieces(index)) if index in seen.begun else 0
    status = status._replace(num_windows_done=num_done)
    if queued and queued.state in ("RUNNING", "COMPLETING"):
        seconds = seconds_of_pieces(layout.pieces(index))
        rate = num_done / seconds if seconds else 0.0
        left = (num_windows - num_done) / rate if rate else None
        place = f"on {queued.detail}"
        return status._replace(state="running", windows_per_second=rate, seconds_left=left, reason=place)
    if queued:
        state = "suspended" if queued.state == "SUSPENDED" else "queued"
        return status._replace(state=state, reason=queued.detail)
    waiting = status._replace(state="begun" if num_done else "missing")
    if where and (submission := where.hides(index)):
        return waiting._replace(reason=f"job {submission.job} of {submission.user}, which this site hides from you")
    if failure := read_failure(layout.outputs, name) if index in seen.failed else None:
        return status._replace(state="failed", reason=f"{failure.tries} tries: {failure.reason}")
    if ended and ended.state in NOT_ENDED:
        return waiting._replace(reason=f"the accounting says {ended.state}, the queue knows nothing")
    if ended:
        return status._replace(state="failed", reason=f"its task {_ending(ended)}")
    return waiting


def _ending(element: Element) -> str:
    """What the accounting says, and what that means."""
    text = f"{ENDINGS.get(element.state, element.state.lower())} (exit code {element.detail})"
    if element.state == "FAILED" and element.detail == NOT_SEEN:
        return f"{text}: its node could not write its log; is the run folder on storage that nodes share?"
    if element.state == "FAILED" and element.detail in KILLED:
        return f"{text}: it was killed, most often for want of memory (--memory-gibibytes)"
    return text


def _log(folders: Mapping[str, Path], element: Element | None) -> str:
    if element is None:
        return ""
    path = folders[element.job] / f"{element.job}_{element.task}_0_log.out"
    return str(path) if path.exists() else ""
