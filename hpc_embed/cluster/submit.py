"""A planned run handed to Slurm: arrays of tasks, and a gather job that waits for them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import submitit

from hpc_embed.checkpoints.files import weight_files
from hpc_embed.cluster.sbatch import (
    Refused,
    array_executor,
    check_options,
    flags_of,
    gather_executor,
    hand_in,
    our_command,
    script_text,
)
from hpc_embed.cluster.signals import signals_held
from hpc_embed.cluster.slurm import ask, max_array_size, site_configuration
from hpc_embed.cluster.submission import Submission, new_submission, submitting
from hpc_embed.cluster.task import outlook
from hpc_embed.cluster.whereabouts import Whereabouts, whereabouts
from hpc_embed.config import GatherSettings, SubmitSettings, WorkSettings
from hpc_embed.errors import EnvironmentFault, Interrupted, RunConflict
from hpc_embed.progress import note
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OVER_THE_LIMIT = ("SubmitJobLimit", "SubmitJobsLimit", "job submit limit", "array specification")
"""sbatch's words where an array has too many elements for this user or site."""


class Submitted(NamedTuple):
    """What `submit` did."""

    num_done: int
    """Shards with a valid marker."""
    num_queued: int
    """Shards in tasks that wait or run already."""
    num_quarantined: int
    """Shards that failed too often."""
    num_submitted: int
    arrays: tuple[str, ...]
    gather_job: str
    """The gather job that this call submitted, empty for none."""


def submit(
    plan: Plan, layout: RunLayout, settings: SubmitSettings, work: WorkSettings, dataset: GatherSettings
) -> Submitted:
    """Submit the shards that are neither done, queued nor left aside, and a gather job where none is alive."""
    check_options(layout, settings)
    refuse_unloadable(plan)
    with submitting(layout):
        where = whereabouts(layout)
        _refuse_orphans(where)
        unfinished, quarantined = outlook(plan, layout, work)
        todo = [index for index in unfinished if index not in where.alive]
        _refuse_hidden(where, todo, settings)
        num_done = len(plan.shards) - len(unfinished) - len(quarantined)
        num_queued = len(unfinished) - len(todo)
        arrays: list[str] = []
        gather_job = ""
        try:
            for tasks in _arrays(todo, settings.shards_per_task):
                with signals_held(STOP_SIGNALS):  # until Slurm's answer is written down
                    arrays.append(_submit_array(layout, tasks, plan, settings, work, arrays))
            if settings.gather and _is_gather_wanted(layout, where, arrays, num_done == len(plan.shards)):
                with signals_held(STOP_SIGNALS):
                    gather_job = _submit_gather(layout, settings, dataset, where, arrays)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted. {_queued_so_far(arrays)}",
                remedy="The same command submits the rest; scancel takes back what is queued.",
            ) from None
    return Submitted(num_done, num_queued, len(quarantined), len(todo), tuple(arrays), gather_job)


def refuse_unloadable(plan: Plan) -> None:
    """Raise EnvironmentFault where the planned weights are not to be found any more."""
    if plan.model.folder and not weight_files(Path(plan.model.folder)):
        raise EnvironmentFault(
            f"{plan.model.folder}: the weights of {plan.model.name} are not there, so no node could load them.",
            remedy="Put them back (`hpc-embed stage-model`), or plan again with another --model.",
        )


def dry_run_text(plan: Plan, layout: RunLayout, settings: SubmitSettings, work: WorkSettings, num_shards: int) -> str:
    """The script of an array over so many shards, or of the first of several arrays."""
    check_options(layout, settings)
    num_tasks = max(1, -(-num_shards // settings.shards_per_task))
    executor = array_executor(plan, settings, work, layout.logs.resolve() / "TOKEN")
    return script_text(executor, _task_command(layout, settings, work, "TOKEN"), min(num_tasks, max_array_size()))


def _refuse_orphans(where: Whereabouts) -> None:
    if where.orphans:
        raise RunConflict(
            f"{where.damaged[0].error.message} Its job {', '.join(where.orphans)} is still in the queue.",
            remedy="Wait for it, or scancel it, and submit again.",
        )
    for damaged in where.damaged:
        note(f"{damaged.error.message} None of its jobs are queued; it is passed over.")


def _refuse_hidden(where: Whereabouts, todo: Sequence[int], settings: SubmitSettings) -> None:
    submission = next((found for shard in todo if (found := where.hides(shard))), None)
    if submission and not settings.take_over:
        raise RunConflict(
            f"{submission.user} submitted these shards as job {submission.job} on {submission.host}, and this site "
            "does not show you other users' jobs: they may be at work.",
            remedy=f"Ask {submission.user}; --take-over submits them all the same.",
        )


def _arrays(shards: Sequence[int], shards_per_task: int) -> Iterator[list[list[int]]]:
    """The elements of each array: as many shards as wanted in one, as many elements as the site allows."""
    tasks = [list(shards[start : start + shards_per_task]) for start in range(0, len(shards), shards_per_task)]
    size = max_array_size() if tasks else 1
    return (tasks[start : start + size] for start in range(0, len(tasks), size))


def _submit_array(
    layout: RunLayout,
    tasks: list[list[int]],
    plan: Plan,
    settings: SubmitSettings,
    work: WorkSettings,
    before: Sequence[str],
) -> str:
    submission = new_submission(tasks, settings.job_name, _cluster())
    executor = array_executor(plan, settings, work, _log_folder(layout, submission))
    try:
        return _hand_in(layout, submission, executor, _task_command(layout, settings, work, submission.token))
    except Refused as error:
        is_too_large = any(words in error.message for words in OVER_THE_LIMIT)
        raise EnvironmentFault(
            f"{error.message} {_queued_so_far(before)}",
            remedy="Make fewer elements (--shards-per-task), or submit again when others have ended."
            if is_too_large
            else "Give other options; `hpc-embed submit --dry-run` shows the script.",
        ) from error


def _queued_so_far(arrays: Sequence[str]) -> str:
    return f"Queued already: {', '.join(arrays)}." if arrays else "Nothing was queued."


def _is_gather_wanted(layout: RunLayout, where: Whereabouts, arrays: Sequence[str], all_done: bool) -> bool:
    """A gather job is wanted after new arrays, and wherever there is something to gather and none is alive."""
    if arrays:
        return True
    return not where.gathers and (bool(where.alive) or (all_done and not layout.dataset_facts.exists()))


def _submit_gather(
    layout: RunLayout, settings: SubmitSettings, dataset: GatherSettings, where: Whereabouts, arrays: Sequence[str]
) -> str:
    """Submit a gather job that waits for all arrays at work; one that waited for fewer of them is cancelled."""
    submission = new_submission((), f"{settings.job_name}-gather", _cluster())
    waits_for = list(dict.fromkeys([*where.jobs, *arrays]))
    folder = _log_folder(layout, submission)
    command = [*our_command(settings, layout), "gather", "--run-dir", str(layout.root.resolve()), *flags_of(dataset)]
    try:
        executor = gather_executor(settings, folder, dataset.memory_mebibytes, waits_for)
        job = _hand_in(layout, submission, executor, command)
    except Refused as error:
        queued = f"arrays {', '.join(waits_for)} are queued and will run" if waits_for else "every shard is done"
        raise EnvironmentFault(
            f"the gather job was not taken, while {queued}: {error.message}",
            remedy=f"Submit again with other options, or `hpc-embed gather --run-dir {layout.root}` in the end.",
        ) from error
    for waiting in (element for element in where.gathers if element.state == "PENDING"):
        with suppress(EnvironmentFault):  # another user's, or just started
            ask("scancel", "--state=PENDING", waiting.job)
    return job


def _hand_in(
    layout: RunLayout, submission: Submission, executor: submitit.SlurmExecutor, command: Sequence[str]
) -> str:
    """Write the submission down, hand it in, and write down Slurm's id."""
    submission.write(layout)
    try:
        job = hand_in(executor, command, len(submission.tasks) or None)
    except Refused as error:
        if "timed out" not in error.message:  # else it may be in the queue: whereabouts looks for it
            submission.remove(layout)
        raise
    replace(submission, job=job).write(layout)
    return job


def _task_command(layout: RunLayout, settings: SubmitSettings, work: WorkSettings, token: str) -> list[str]:
    run_dir = str(layout.root.resolve())
    return [*our_command(settings, layout), "run-task", "--run-dir", run_dir, "--submission", token, *flags_of(work)]


def _log_folder(layout: RunLayout, submission: Submission) -> Path:
    """logs/TOKEN, there before any task starts, and for its submitter alone to write."""
    folder = layout.logs.resolve() / submission.token
    folder.mkdir(parents=True)
    folder.chmod(folder.stat().st_mode & ~0o022)
    return folder


def _cluster() -> str:
    return os.environ.get("SLURM_CLUSTER_NAME") or site_configuration().get("ClusterName", "")
