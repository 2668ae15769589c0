"""Submissions: which array element has which shards, written down before the array is submitted.

    submissions/TOKEN.json    elements and their shards; without a job id while sbatch has not answered
    logs/TOKEN/               the batch script and the elements' logs; what it holds, only its submitter may change

The token is in the path of the batch script, which the queue tells: so an array whose submission was cut short is
found again, and another job that has come to the same id is known to be none of ours.
"""

from __future__ import annotations

import json
import os
import pwd
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from hpc_embed.cluster.slurm import format_ranges, parse_ranges
from hpc_embed.errors import RunConflict
from hpc_embed.run.files import this_host, write_json
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.locks import held


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One array of one `submit`, or its gather job; the shards of each element are frozen at launch."""

    token: str
    job: str
    """Slurm's id; empty while sbatch has not answered."""
    tasks: tuple[str, ...]
    """Shards of each element, as ranges; empty for a gather job."""
    job_name: str
    cluster: str
    user_id: int
    user: str
    host: str
    submitted: float
    """Seconds since the epoch."""

    @property
    def is_gather(self) -> bool:
        return not self.tasks

    def shards_of(self, task: int) -> list[int]:
        """Shards of an element; none for one that the submission does not have."""
        return parse_ranges(self.tasks[task]) if task < len(self.tasks) else []

    def shards(self) -> set[int]:
        """Shards of all elements; ValueError for one that is given twice."""
        found: set[int] = set()
        for task in range(len(self.tasks)):
            own = self.shards_of(task)
            num_wanted = len(found) + len(own)
            found.update(own)
            if len(found) < num_wanted:
                raise ValueError(f"element {task} has shards that are given already")
        return found

    def write(self, layout: RunLayout) -> None:
        """Publish it."""
        write_json(_path(layout, self.token), asdict(self))

    def remove(self, layout: RunLayout) -> None:
        """Take it back: sbatch refused."""
        _path(layout, self.token).unlink(missing_ok=True)


def new_submission(tasks: Sequence[Sequence[int]], job_name: str, cluster: str) -> Submission:
    """A submission by this user, not yet handed to Slurm."""
    return Submission(
        token=f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}",
        job="",
        tasks=tuple(format_ranges(shards) for shards in tasks),
        job_name=job_name,
        cluster=cluster,
        user_id=os.getuid(),
        user=_user_name(),
        host=this_host(),
        submitted=round(time.time(), 3),
    )


def _user_name() -> str:
    """By the process's uid, which LOGNAME cannot change; its number where no name belongs to it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _path(layout: RunLayout, token: str) -> Path:
    return layout.submissions / f"{token}.json"


def read_submission(layout: RunLayout, token: str) -> Submission:
    """One submission; RunConflict where it is not there or damaged."""
    path = _path(layout, token)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        submission = Submission(**{**content, "tasks": tuple(str(task) for task in content["tasks"])})
        if not _is_well_formed(submission) or submission.token != token:
            raise ValueError("it says what no submission of that name does")
        submission.shards()  # ranges and nothing else
    except (FileNotFoundError, IsADirectoryError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunConflict(
            f"{path}: not a whole submission ({error}).",
            remedy=f"If none of its jobs are queued (their scripts lie in {layout.logs / token}), remove the file.",
        ) from error
    return submission


def _is_well_formed(submission: Submission) -> bool:
    """Numbers are numbers, words are words, a job is none of Slurm's options: anybody may have written the file."""
    texts = (
        submission.token,
        submission.job,
        submission.job_name,
        submission.cluster,
        submission.user,
        submission.host,
    )
    return (
        all(isinstance(text, str) for text in texts)
        and (not submission.job or (submission.job.isascii() and submission.job.isdecimal()))
        and type(submission.user_id) is int
        and type(submission.submitted) in (int, float)
    )


class Damaged(NamedTuple):
    """A submission file that cannot be understood."""

    token: str
    owner_id: int
    error: RunConflict


def read_submissions(layout: RunLayout) -> tuple[list[Submission], list[Damaged]]:
    """Every submission of a run so far, oldest first, and those that are damaged."""
    whole, damaged = [], []
    for path in sorted(layout.submissions.glob("*.json")):
        try:
            whole.append(read_submission(layout, path.stem))
        except RunConflict as error:
            damaged.append(Damaged(path.stem, path.stat().st_uid, error))
    return whole, damaged


@contextmanager
def submitting(layout: RunLayout) -> Iterator[None]:
    """Hold the run folder for one `submit` at a time; RunConflict where another is at it."""
    layout.submissions.mkdir(exist_ok=True)
    with held(layout.submissions / "lock") as is_held:
        if not is_held:
            raise RunConflict(
                f"{layout.root}: another `hpc-embed submit` is at work.", remedy="Wait for it, then look at status."
            )
        yield
