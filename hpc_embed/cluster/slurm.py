"""What Slurm says: which tasks are queued or running, how they ended, how large an array may be."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from hpc_embed.errors import EnvironmentFault

TIMEOUT_SECONDS = 20
DEFAULT_MAX_ARRAY_SIZE = 1001
"""Slurm's own default."""


class ArrayElement(NamedTuple):
    """One element of an array, as the queue or the accounting knows it."""

    job: str
    """Id of the array."""
    task: int
    state: str
    """PENDING, RUNNING, COMPLETED, TIMEOUT, …"""
    detail: str
    """Reason of a pending one, node of a running one, exit code of an ended one."""


def max_array_size() -> int:
    """The largest number of elements of one array on this site; indices end one below."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"), flags=re.M)
    return int(found.group(1)) if found else DEFAULT_MAX_ARRAY_SIZE


def queued_elements(jobs: Sequence[str]) -> list[ArrayElement]:
    """Elements of these arrays that wait or run; EnvironmentFault where Slurm does not answer."""
    if not jobs:
        return []
    wanted = set(jobs)
    text = _ask(
        "squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%F|%K|%T|%r|%N", "--states=all"
    )
    elements = []
    for line in text.splitlines():
        job, index, state, reason, node = line.strip().split("|", 4)
        if job in wanted and state in ACTIVE:
            detail = node if state == "RUNNING" else reason
            elements.append(ArrayElement(job, int(index) if index.isdigit() else 0, state, detail))
    return elements


ACTIVE = {
    *("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"),
    *("RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT", "PREEMPTED", "NODE_FAIL"),
}
"""States that may still lead to work: a job that was preempted or lost its node is about to be requeued."""


def ended_elements(jobs: Sequence[str]) -> list[ArrayElement]:
    """How elements ended, from the accounting; nothing where a site has none."""
    if not jobs or shutil.which("sacct") is None:
        return []
    try:
        text = _ask(
            *("sacct", "--noheader", "--parsable2", "--allocations"),
            *(f"--jobs={','.join(jobs)}", "--format=JobID,State,ExitCode"),
        )
    except EnvironmentFault:
        return []
    elements = []
    for line in text.splitlines():
        name, state, exit_code = line.split("|", 2)
        job, _, index = name.partition("_")
        word = state.split()[0] if state else "UNKNOWN"
        for task in _tasks_of(index):
            elements.append(ArrayElement(job, task, word, exit_code))
    return elements


def _tasks_of(index: str) -> list[int]:
    """Indices in `7`, in `[0-9,12%4]` for elements that never ran, or 0 for a job that is no array."""
    text = index.strip("[]").partition("%")[0]
    if not text:
        return [0]
    try:
        return parse_ranges(text)
    except ValueError:  # abbreviated by sacct: [0-9,...]
        return []


def parse_ranges(text: str) -> list[int]:
    """`0-9,12` to its numbers; ValueError for anything else."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{part!r} is no number or range")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _ask(*command: str) -> str:
    if shutil.which(command[0]) is None:
        raise EnvironmentFault(
            f"{command[0]} is not on PATH: this is no Slurm machine.",
            remedy="Submit from a login node, or use `hpc-embed local`.",
        )
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise EnvironmentFault(f"{command[0]} does not answer.", remedy="Try again once Slurm is back.") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EnvironmentFault(f"{command[0]} failed: {reason}.", remedy="Try again once Slurm is back.") from error
    return done.stdout
