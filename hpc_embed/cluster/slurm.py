"""What Slurm says: which elements of our arrays wait, run or have ended, and how the site is configured.

squeue and sacct are asked for named fields in a fixed order. That form has been the same for ten years of releases,
while what `--json` prints changes from release to release.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import NamedTuple

from hpc_embed.cluster.environment import environment
from hpc_embed.errors import EnvironmentFault
from hpc_embed.planning.distribution import MAX_SHARDS

TIMEOUT_SECONDS = 20
DEFAULT_MAX_ARRAY_SIZE = 1001
"""Slurm's own default."""
ALIVE = {
    *("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"),
    *("RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT", "RESV_DEL_HOLD"),
}
"""States that may still lead to work. A job that is about to be requeued is COMPLETING, REQUEUED or PENDING; the bare
words PREEMPTED and NODE_FAIL are final."""
GONE = "Invalid job id specified"
"""squeue's word where it has forgotten every job that it is asked for."""


class Element(NamedTuple):
    """One element of an array, as the queue or the accounting knows it."""

    job: str
    """Id of the array."""
    task: int
    state: str
    """PENDING, RUNNING, COMPLETED, TIMEOUT, …"""
    detail: str
    """Reason of a pending one, node of a running one, exit code of an ended one."""
    script: str = ""
    """Path of the batch script, known to the queue alone."""
    name: str = ""
    """Job name, cluster and time of submission (seconds since the epoch): known to the accounting alone."""
    cluster: str = ""
    submitted: float = 0.0


@cache
def site_configuration() -> dict[str, str]:
    """`scontrol show config`, name by name."""
    lines = (line.partition("=") for line in ask("scontrol", "show", "config").splitlines())
    return {name.strip(): value.strip() for name, equals, value in lines if equals}


def max_array_size() -> int:
    """The largest number of elements of one array on this site; indices end one below."""
    found = site_configuration().get("MaxArraySize", "")
    return int(found) if found.isdecimal() else DEFAULT_MAX_ARRAY_SIZE


def hides_jobs() -> bool:
    """True where users see their own jobs alone (PrivateData=jobs)."""
    return "jobs" in re.split(r"[,\s]+", site_configuration().get("PrivateData", ""))


def live_elements(jobs: Sequence[str]) -> list[Element]:
    """Elements of these arrays that wait or run, whoever submitted them; EnvironmentFault where Slurm is silent."""
    queue = _queue(f"--jobs={','.join(jobs)}") if jobs else []
    return [element for element in queue if element.state in ALIVE]


def elements_of_user(user_id: int) -> list[Element]:
    """All that this user has in the queue, with what has ended lately."""
    return _queue(f"--user={user_id}")


def _queue(whose: str) -> list[Element]:
    fields = "%F|%K|%T|%r|%N|%o"
    text = ask("squeue", "--noheader", "--array", "--states=all", whose, f"--format={fields}", tolerate=GONE)
    elements = []
    for line in text.splitlines():
        words = line.strip().split("|", fields.count("|"))
        if len(words) > fields.count("|"):  # a site's own news may stand between
            job, index, state, reason, node, script = words
            detail = node if state in ("RUNNING", "COMPLETING", "SUSPENDED") else reason
            elements.append(Element(job, int(index) if index.isdecimal() else 0, state, detail, script))
    return elements


def ended_elements(jobs: Sequence[str]) -> list[Element]:
    """How elements ended, from the accounting; nothing where a site has none.

    That memory ran out stands on the step alone, so steps are asked for too.
    """
    if not jobs or shutil.which("sacct") is None:
        return []
    fields = "JobID,State,ExitCode,JobName,Cluster,Submit"
    try:
        text = ask("sacct", "--noheader", "--parsable2", f"--jobs={','.join(jobs)}", f"--format={fields}")
    except EnvironmentFault:
        return []
    lines = [line.split("|") for line in text.splitlines() if line.count("|") == fields.count(",")]
    short_of_memory = {words[0].partition(".")[0] for words in lines if words[1].startswith("OUT_OF_ME")}
    elements = []
    for allocation, state, exit_code, name, cluster, submitted in lines:
        if "." in allocation:
            continue
        word = "OUT_OF_MEMORY" if allocation in short_of_memory else (state.split() or ["UNKNOWN"])[0]
        job, _, index = allocation.partition("_")
        for task in _tasks_of(index):
            elements.append(Element(job, task, word, exit_code, "", name, cluster, _seconds(submitted)))
    return elements


def _seconds(time: str) -> float:
    """Slurm's local time to seconds since the epoch; 0 for Unknown."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0


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
    """`0-9,12` to its numbers; ValueError for anything else, and for more than any plan has."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{part!r} is no number or range")
        if int(last or first) >= MAX_SHARDS:
            raise ValueError(f"{part!r} is beyond {MAX_SHARDS:,} shards")
        numbers += range(int(first), int(last or first) + 1)
        if len(numbers) > MAX_SHARDS:
            raise ValueError(f"more than {MAX_SHARDS:,} shards")
    return numbers


def format_ranges(numbers: Sequence[int]) -> str:
    """The inverse of `parse_ranges`, for numbers in ascending order."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)


def ask(*command: str, tolerate: str = "") -> str:
    """Output of one of Slurm's commands; EnvironmentFault where it is missing, silent or fails.

    A failure that says `tolerate` counts as an empty answer.
    """
    if shutil.which(command[0]) is None:
        raise EnvironmentFault(
            f"{command[0]} is not on PATH: this is no Slurm machine.",
            remedy="Submit from a login node, or use `hpc-embed local`.",
        )
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=TIMEOUT_SECONDS,
            env=environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentFault(f"{command[0]} does not answer.", remedy="Try again once Slurm is back.") from error
    except subprocess.CalledProcessError as error:
        reason = reason_of(error.stderr)
        if tolerate and tolerate in reason:
            return str(error.stdout)
        raise EnvironmentFault(f"{command[0]} failed: {reason}.", remedy="Try again once Slurm is back.") from error
    return done.stdout


def reason_of(stderr: str) -> str:
    """What a Slurm command complained of, in one line: `AssocMaxSubmitJobLimit; Batch job submission failed: …`."""
    lines = [re.sub(r"^\w+: (error: )?", "", line.strip()).rstrip(".") for line in stderr.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines)) or "no reason given"
