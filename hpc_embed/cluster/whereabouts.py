"""Where the elements of a run's submissions are: waiting, running, ended, hidden from us, or never heard of."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from hpc_embed.cluster.slurm import ALIVE, Element, elements_of_user, ended_elements, hides_jobs, live_elements
from hpc_embed.cluster.submission import Damaged, Submission, read_submissions
from hpc_embed.run.layout import RunLayout

CLOCK_SECONDS = 86_400.0
"""How far the clocks of a login node and of the controller may be apart; an id comes again after much longer."""
NOT_ENDED = ("PENDING", "RUNNING", "REQUEUED", "RESIZING", "SUSPENDED")
"""What the accounting may still say of an element that the queue has forgotten; no failure."""


class Whereabouts(NamedTuple):
    """A run's submissions as the queue shows them to this user."""

    submissions: list[Submission]
    alive: dict[int, Element]
    """By shard: the element that waits or runs with it."""
    gathers: list[Element]
    """Gather jobs that wait or run."""
    hidden: list[Submission]
    """Arrays of other users, where the site shows nobody else's jobs."""
    damaged: list[Damaged]
    orphans: list[str]
    """Job ids that the queue has of damaged submissions."""

    @property
    def jobs(self) -> list[str]:
        """Arrays with an element that waits or runs, oldest first."""
        return list(dict.fromkeys(element.job for element in self.alive.values()))

    @property
    def is_over(self) -> bool:
        """True where something was submitted and nothing of it waits, runs or may do so unseen."""
        return bool(self.submissions) and not (self.alive or self.gathers or self.hidden)

    def hides(self, shard: int) -> Submission | None:
        """The hidden submission that has the shard, if any."""
        return next((one for one in self.hidden if shard in one.shards()), None)


def whereabouts(layout: RunLayout) -> Whereabouts:
    """Ask the queue; EnvironmentFault where Slurm does not answer, RunConflict for what cannot be read."""
    read, damaged = read_submissions(layout)
    submissions = _with_late_answers(layout, read)
    known = {submission.job: submission for submission in submissions}
    elements = [
        element
        for element in live_elements([job for job in known if job])
        # an element's own number is asked for as if it were an array's, and answered with another array
        if element.job in known and _token_of(element.script) == known[element.job].token
    ]
    arrays = [element for element in elements if not known[element.job].is_gather]
    seen = {element.job for element in elements}
    strangers = [one for one in submissions if one.user_id != os.getuid() and one.job not in seen and not one.is_gather]
    return Whereabouts(
        submissions=submissions,
        alive=_by_shard(submissions, arrays),
        gathers=[element for element in elements if known[element.job].is_gather],
        hidden=strangers if strangers and os.getuid() != 0 and hides_jobs() else [],
        damaged=damaged,
        orphans=_jobs_of_damaged(damaged),
    )


class Endings:
    """How elements ended, as far as the accounting tells; of what has ended it is asked once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Element] = {}

    def by_shard(self, submissions: Sequence[Submission], shards: Collection[int]) -> dict[int, Element]:
        """Of these shards: how the newest element that had each ended."""
        submitted = [one for one in submissions if one.job]
        newest = {
            shard: (one.job, task)
            for one in submitted
            for task in range(len(one.tasks))
            for shard in one.shards_of(task)
        }
        jobs = {newest[shard][0] for shard in shards if shard in newest and newest[shard] not in self._known}
        by_job = {one.job: one for one in submitted}
        asked = ended_elements([job for job in by_job if job in jobs])
        ours = [element for element in asked if element.job in by_job and _is_of(element, by_job[element.job])]
        self._known |= {(each.job, each.task): each for each in ours if each.state not in NOT_ENDED}
        found = _by_shard(submissions, [*self._known.values(), *(each for each in ours if each.state in NOT_ENDED)])
        return {shard: found[shard] for shard in shards if shard in found}


def _with_late_answers(layout: RunLayout, submissions: Sequence[Submission]) -> list[Submission]:
    """Fill in the ids of arrays that Slurm took although sbatch never answered."""
    found = jobs_by_token({one.token: one.user_id for one in submissions if not one.job})
    complete = []
    for submission in submissions:
        if jobs := found.get(submission.token):
            submission = replace(submission, job=jobs[0].job)
            with suppress(OSError):  # another user's run folder: it is looked up again next time
                submission.write(layout)
        complete.append(submission)
    return complete


def jobs_by_token(users: Mapping[str, int]) -> dict[str, list[Element]]:
    """What the queue has of submissions, given with their users, by the paths of batch scripts: one question a user."""
    found: dict[str, list[Element]] = {}
    for job in (job for user in dict.fromkeys(users.values()) for job in elements_of_user(user)):
        found.setdefault(_token_of(job.script), []).append(job)
    return {token: found[token] for token in users if token in found}


def _jobs_of_damaged(damaged: Sequence[Damaged]) -> list[str]:
    found = jobs_by_token({one.token: one.owner_id for one in damaged})
    return list(dict.fromkeys(job.job for jobs in found.values() for job in jobs if job.state in ALIVE))


def _token_of(script: str) -> str:
    """The submission that a batch script belongs to: it lies in logs/TOKEN."""
    return Path(script).parent.name


def _is_of(element: Element, submission: Submission) -> bool:
    """Whether an ended element is ours, and not of a later job or another cluster's with the same id."""
    return (
        element.name == submission.job_name
        and submission.cluster in ("", element.cluster)
        and (not element.submitted or element.submitted >= submission.submitted - CLOCK_SECONDS)
    )


def _by_shard(submissions: Sequence[Submission], elements: Sequence[Element]) -> dict[int, Element]:
    """The newest element of each shard: later submissions come later in the list."""
    order = {submission.job: place for place, submission in enumerate(submissions)}
    by_job = {submission.job: submission for submission in submissions}
    found: dict[int, Element] = {}
    for element in sorted(elements, key=lambda element: order[element.job]):
        found.update(dict.fromkeys(by_job[element.job].shards_of(element.task), element))
    return found
