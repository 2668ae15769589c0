"""A rehearsal on a new site: a tiny run in which one element is killed and one asks for another start.

The composition model embeds, so that nothing is waited for but the queue. What a run relies on is tried for real:
nodes see the run folder, a batch script may requeue its task from a node, what was killed is found missing by the
gather job and submitted again, and the dataset is whole.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

from hpc_embed.cluster.site import Finding
from hpc_embed.cluster.slurm import ask
from hpc_embed.cluster.status import RunStatus, last_lines, run_status
from hpc_embed.cluster.submission import read_submissions
from hpc_embed.cluster.submit import submit
from hpc_embed.config import GatherSettings, PlanSettings, SubmitSettings, WorkSettings
from hpc_embed.errors import EnvironmentFault, HpcEmbedError
from hpc_embed.planning.planner import make_plan
from hpc_embed.results.gather import gather
from hpc_embed.run.faults import PAUSES_SECONDS
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan

NUM_RECORDS, NUM_SHARDS = 64, 3
KILLED, STOPPED = 1, 2
"""Elements of the first array to which something happens."""
POLL_SECONDS = 1.0
WAIT_SECONDS = 5.0
"""How long the gather job looks again for the shard that is missing on purpose."""
TROUBLE = (
    f'case "$SLURM_ARRAY_TASK_ID:${{SLURM_RESTART_COUNT:-0}}" in {KILLED}:0) sleep 600 ;; '
    f"{STOPPED}:0) export HPC_EMBED_STOP_AT=0 ;; esac"
)
"""A line of set-up: the first start of one element waits to be killed, that of another finds its time over."""


class _Failed(Exception):
    """A step that did not come true, with what was seen instead."""


def rehearse(folder: Path, settings: SubmitSettings, timeout_minutes: float) -> Iterator[Finding]:
    """Run it, a finding for each step; the folder goes away where all is well, and stays to be looked at elsewhere.

    The last finding is the verdict.
    """
    layout = RunLayout(folder / "run")
    deadline = time.monotonic() + 60 * timeout_minutes
    settings = replace(settings, time_minutes=10, shards_per_task=1, gather=True)
    try:
        yield from _steps(folder, layout, settings, deadline)
    except KeyboardInterrupt:
        _cancel(layout)
        raise
    except (_Failed, HpcEmbedError) as error:
        _cancel(layout)
        yield Finding("verdict", False, f"{error} What there is lies in {folder}.")
        return
    well = "this site runs hpc-embed: what is stopped is requeued, what is killed submitted again"
    yield Finding("verdict", True, f"{well}{_remove(folder)}")


def _remove(folder: Path) -> str:
    """What is left to say: nothing once it is gone, for which the last job may have to end its writing first."""
    for pause in PAUSES_SECONDS:
        if _is_removed(folder):
            return ""
        time.sleep(pause)
    return "" if _is_removed(folder) else f" ({folder} could not be removed)"


def _is_removed(folder: Path) -> bool:
    with suppress(OSError):
        shutil.rmtree(folder)
    return not folder.exists()


def _steps(folder: Path, layout: RunLayout, settings: SubmitSettings, deadline: float) -> Iterator[Finding]:
    folder.mkdir(parents=True)
    fasta = folder / "rehearsal.fasta"
    random = Random(0)
    letters = ["".join(random.choices("ACDEFGHIKLMNPQRSTVWY", k=120)) for _ in range(NUM_RECORDS)]
    fasta.write_text("".join(f">rehearsal-{number}\n{text}\n" for number, text in enumerate(letters)))
    plan = make_plan(PlanSettings(fasta=(str(fasta),), num_shards=NUM_SHARDS), layout).plan
    yield Finding("plan", True, f"{NUM_RECORDS} records in {NUM_SHARDS} shards, {layout.root}")

    troubled = replace(settings, setup=(*settings.setup, TROUBLE))
    work = WorkSettings(devices="cpu", workers=1)
    dataset = GatherSettings(wait_seconds=WAIT_SECONDS)
    first = submit(plan, layout, troubled, work, dataset)
    job = first.arrays[0]
    yield Finding("submit", True, f"array {job}, gather job {first.gather_job}")

    killed = f"{job}_{KILLED}"
    shard = _await(
        plan, layout, deadline, "the queue did not start it", lambda seen: seen.shards[KILLED].state == "running"
    )
    ask("scancel", killed)
    yield Finding("kill", True, f"element {killed} cancelled while it ran {shard.shards[KILLED].reason}")

    seen = _await(plan, layout, deadline, "elements did not end", lambda seen: seen.is_over)
    others = [each for index, each in enumerate(seen.shards) if index != KILLED]
    if not any(each.state == "done" for each in others):
        raise _Failed(f"no element did its work. {_excuse(seen, layout)}")
    yield Finding("nodes", True, "they see the run folder and this Python, and publish there")
    if seen.shards[STOPPED].state != "done":
        raise _Failed(f"element {job}_{STOPPED} asked for another start and got none. {_excuse(seen, layout)}")
    yield Finding("requeue", True, f"element {job}_{STOPPED} stopped itself and was started again from its node")
    if seen.is_gathered or seen.shards[KILLED].state == "done":
        raise _Failed("the killed element is not missed.")
    yield Finding("missing", True, f"the gather job left the dataset unmade; status says: {seen.shards[KILLED].reason}")

    second = submit(plan, layout, settings, work, dataset)
    if second.num_submitted != 1:
        raise _Failed(f"{second.num_submitted} shards were submitted again instead of one.")
    yield Finding("submit again", True, f"the one that is missing, as job {second.arrays[0]}")
    seen = _await(plan, layout, deadline, "the dataset did not come", lambda seen: seen.is_gathered or seen.is_over)
    if not seen.is_gathered:
        raise _Failed(f"nothing was gathered. {_excuse(seen, layout)}")
    statuses = gather(plan, layout, GatherSettings()).statuses  # it is there already: this reads it back
    if statuses != {"embedded": NUM_RECORDS}:
        raise _Failed(f"records by status: {dict(statuses)}.")
    yield Finding("gather", True, f"{NUM_RECORDS} records, each with its vector")


def _await(
    plan: Plan, layout: RunLayout, deadline: float, otherwise: str, condition: Callable[[RunStatus], bool]
) -> RunStatus:
    """Look until the condition holds; _Failed when time is up, or when the run is over without it."""
    quiet_looks = 0
    while True:
        seen = run_status(plan, layout)
        if condition(seen):
            return seen
        quiet_looks = quiet_looks + 1 if seen.is_over else 0
        if quiet_looks > 2:
            raise _Failed(f"{otherwise}, and nothing is queued any more. {_excuse(seen, layout)}")
        if time.monotonic() > deadline:
            waits = ", ".join(sorted({each.reason for each in seen.shards if each.state == "queued"}))
            raise _Failed(f"{otherwise} in time{f' ({waits})' if waits else ''}; --rehearse-minutes gives more.")
        time.sleep(POLL_SECONDS)


def _excuse(seen: RunStatus, layout: RunLayout) -> str:
    """What the queue and the first log say."""
    reasons = "; ".join(sorted({each.reason for each in seen.shards if each.state == "failed"}))
    log = next((each.log for each in seen.shards if each.state == "failed" and each.log), "")
    if not log:
        return (
            f"{reasons or 'No reason is known'}, and no log was written: is {layout.root} on storage that nodes share?"
        )
    return f"{reasons}; {log} ends: {' / '.join(last_lines(log)[-2:])}"


def _cancel(layout: RunLayout) -> None:
    """Leave nothing of the rehearsal in the queue."""
    jobs = [one.job for one in read_submissions(layout)[0] if one.job]
    if jobs:
        try:
            ask("scancel", "--quiet", *jobs)
        except EnvironmentFault:  # all of them have ended
            return
