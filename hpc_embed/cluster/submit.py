"""A planned run handed to Slurm: arrays of tasks, and a gather job that waits for them."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from hpc_embed.checkpoints.files import weight_files
from hpc_embed.cluster.environment import chosen_cluster, with_defaults_of_the_shell
from hpc_embed.cluster.sbatch import (
    Refused,
    check_options,
    gather_options,
    gres_of,
    hand_in,
    our_command,
    refuse_without_slurm,
    task_options,
)
from hpc_embed.cluster.script import job_script
from hpc_embed.cluster.signals import signals_held
from hpc_embed.cluster.slurm import ask, max_array_size, site_configuration
from hpc_embed.cluster.submission import Submission, new_submission, submitting
from hpc_embed.cluster.task import outlook
from hpc_embed.cluster.whereabouts import Whereabouts, jobs_by_token, whereabouts
from hpc_embed.config import GatherSettings, SubmitSettings, WorkSettings
from hpc_embed.errors import EnvironmentFault, Interrupted, RunConflict
from hpc_embed.flags import flags_of
from hpc_embed.progress import note
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PAUSES_SECONDS = (1.0, 3.0)
"""Before the queue is asked again for what it has just been given."""
OVER_THE_LIMIT = ("temporarily un", "SubmitJobLimit", "SubmitJobsLimit", "job submit limit", "array specification")
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
    settings = with_defaults_of_the_shell(settings)
    check_options(layout, settings)
    refuse_without_slurm()
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
                    arrays.append(_submit_array(layout, tasks, plan, settings, work, where, arrays))
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
    settings = with_defaults_of_the_shell(settings)
    check_options(layout, settings)
    refuse_without_slurm()
    num_tasks = max(1, -(-num_shards // settings.shards_per_task))
    options = task_options(gres_of(plan, settings), settings, min(num_tasks, max_array_size()))
    command = _task_command(layout, settings, work, "TOKEN")
    return job_script(options, layout.logs.resolve() / "TOKEN", settings, work.max_tries, command)


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
    where: Whereabouts,
    before: Sequence[str],
) -> str:
    """Its elements count against --array-parallelism by themselves, so that it waits for the arrays before it."""
    submission = new_submission(tasks, settings.job_name, _cluster())
    after = list(dict.fromkeys([*where.jobs, *before])) if settings.array_parallelism else []
    options = task_options(gres_of(plan, settings), settings, len(tasks), after)
    folder = _log_folder(layout, submission)
    command = _task_command(layout, settings, work, submission.token)
    try:
        return _hand_in(layout, submission, job_script(options, folder, settings, work.max_tries, command))
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
        options = gather_options(settings, dataset.memory_mebibytes, waits_for)
        text = job_script(options, folder, settings, WorkSettings().max_tries, command)
        job = _hand_in(layout, submission, text)
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


def _hand_in(layout: RunLayout, submission: Submission, text: str) -> str:
    """Write the submission down, hand in its batch script, and write down Slurm's id."""
    script = layout.logs.resolve() / submission.token / "batch.sh"
    script.write_text(text, encoding="utf-8")
    submission.write(layout)
    try:
        job = hand_in(script) or _id_in_the_queue(submission)
    except Refused as error:
        if "timed out" not in error.message:  # else it may be in the queue: whereabouts looks for it
            submission.remove(layout)
        raise
    replace(submission, job=job).write(layout)
    return job


def _id_in_the_queue(submission: Submission) -> str:
    """By its batch script, where sbatch's answer does not tell."""
    for pause in (0.0, *PAUSES_SECONDS):
        time.sleep(pause)
        if found := jobs_by_token({submission.token: submission.user_id}):
            return found[submission.token][0].job
    raise EnvironmentFault(
        "sbatch's answer holds no job id, and the queue has no such job.",
        remedy="Look at `hpc-embed status` in a minute; the same command submits what is not queued.",
    )


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
    return chosen_cluster() or site_configuration().get("ClusterName", "")
