"""A planned run handed to Slurm through submitit: arrays of tasks, and a gather job that waits for them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import submitit

from hpc_embed.cluster.array_task import REQUEUE_LINE, embed_array_task, gather_task
from hpc_embed.cluster.slurm import max_array_size, queued_elements
from hpc_embed.cluster.submission import Submission, read_submissions, submitting
from hpc_embed.cluster.task import quarantined_shards, shards_to_do
from hpc_embed.config import GatherSettings, SubmitSettings, WorkSettings
from hpc_embed.errors import EnvironmentFault, UsageError
from hpc_embed.registry import find_model
from hpc_embed.run.identity import weight_files
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan, read_plan

UNLIMITED = 1_000_000
OUR_IMAGE = "APPTAINER_CONTAINER"
"""Set by Apptainer to the image that this very process runs in."""


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


def submit(
    plan: Plan, layout: RunLayout, settings: SubmitSettings, work: WorkSettings, dataset: GatherSettings
) -> Submitted:
    """Submit the shards that are neither done, queued nor left aside, and a gather job after them."""
    refuse_unloadable(plan)
    with submitting(layout):
        submissions = read_submissions(layout)
        queued = _queued_shards(submissions)
        todo = [index for index in shards_to_do(plan, layout, work) if index not in queued]
        quarantined = quarantined_shards(plan, layout, work)
        done = len(plan.shards) - len(todo) - len(queued) - len(quarantined)
        arrays = _submit_arrays(layout, _bundles(todo, settings.shards_per_task), plan, settings, work)
        gather_job = ""
        if arrays and settings.gather:
            waits_for = [job for job, _ in arrays] + [one.job for one in submissions if _is_queued(one, queued)]
            gather_job = _submit_gather(layout, settings, dataset, waits_for)
        for job, tasks in arrays:
            Submission(job=job, tasks=tasks, gather_job=gather_job).write(layout.submissions)
    return Submitted(done, len(queued), len(quarantined), len(todo), tuple(job for job, _ in arrays), gather_job)


def refuse_unloadable(plan: Plan) -> None:
    """Raise EnvironmentFault where the planned weights are not to be found any more."""
    if plan.model.folder and not weight_files(Path(plan.model.folder)):
        raise EnvironmentFault(
            f"{plan.model.folder}: the weights of {plan.model.name} are not there, so no node could load them.",
            remedy="Put them back (`hpc-embed stage-model`), or plan again with another --model.",
        )


def script_text(plan: Plan, layout: RunLayout, settings: SubmitSettings, num_tasks: int) -> str:
    """The very script that `submit` hands to sbatch for an array of so many tasks."""
    executor = _array_executor(layout, plan, settings)
    executor.parameters["map_count"] = num_tasks
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "dry-run")
    return text


def _queued_shards(submissions: Sequence[Submission]) -> set[int]:
    tasks = {submission.job: submission.tasks for submission in submissions}
    return {
        shard
        for element in queued_elements(list(tasks))
        if element.task < len(tasks[element.job])
        for shard in tasks[element.job][element.task]
    }


def _is_queued(submission: Submission, queued: set[int]) -> bool:
    return any(shard in queued for task in submission.tasks for shard in task)


def _bundles(shards: Sequence[int], shards_per_task: int) -> list[tuple[int, ...]]:
    return [tuple(shards[start : start + shards_per_task]) for start in range(0, len(shards), shards_per_task)]


def _submit_arrays(
    layout: RunLayout,
    tasks: list[tuple[int, ...]],
    plan: Plan,
    settings: SubmitSettings,
    work: WorkSettings,
) -> list[tuple[str, tuple[tuple[int, ...], ...]]]:
    """Arrays of at most the site's size; id and tasks of each."""
    if not tasks:
        return []
    size = max_array_size()
    arrays = []
    for start in range(0, len(tasks), size):
        part = tasks[start : start + size]
        executor = _array_executor(layout, plan, settings)
        run_dir = str(layout.root.resolve())
        try:
            with executor.batch():
                jobs = [executor.submit(embed_array_task, run_dir, task, work) for task in part]
        except submitit.core.utils.FailedJobError as error:
            reason = str(error).strip().splitlines()[-1]
            raise EnvironmentFault(f"sbatch refused the array: {reason}.", remedy="Mend the settings.") from error
        arrays.append((jobs[0].job_id.partition("_")[0], tuple(part)))
    return arrays


def _submit_gather(
    layout: RunLayout, settings: SubmitSettings, dataset: GatherSettings, waits_for: Sequence[str]
) -> str:
    executor = _executor(
        layout,
        settings,
        partition=settings.gather_partition or settings.partition,
        dependency="afterany:" + ":".join(dict.fromkeys(waits_for)),
        job_name=f"{settings.job_name}-gather",
    )
    return str(executor.submit(gather_task, str(layout.root.resolve()), dataset).job_id)


def _array_executor(layout: RunLayout, plan: Plan, settings: SubmitSettings) -> submitit.SlurmExecutor:
    """An executor for array tasks."""
    return _executor(
        layout,
        settings,
        partition=settings.partition,
        job_name=settings.job_name,
        cpus_per_task=settings.cpus_per_task,
        mem=f"{settings.memory_gibibytes}GB" if settings.memory_gibibytes else None,
        gres=gres_of(plan, settings),
        array_parallelism=settings.array_parallelism or UNLIMITED,
        signal_delay_s=settings.signal_seconds,
        teardown=[REQUEUE_LINE],
    )


def gres_of(plan: Plan, settings: SubmitSettings) -> str | None:
    """The GPUs of one task: --gres, --gpus, or what the model needs."""
    if settings.gres:
        return settings.gres
    num_gpus = settings.gpus if settings.gpus is not None else int(find_model(plan.model.registry_name).has_weights)
    return f"gpu:{num_gpus}" if num_gpus else None


def _executor(layout: RunLayout, settings: SubmitSettings, **more: object) -> submitit.SlurmExecutor:
    run_dir = layout.root.resolve()
    if "%" in str(run_dir):
        raise UsageError(f"--run-dir {run_dir}: Slurm reads % in a path as a pattern.", remedy="Choose another.")
    if shutil.which("sbatch") is None:
        raise EnvironmentFault(
            "sbatch is not on PATH: this is no Slurm machine.",
            remedy="Submit from a login node, or use `hpc-embed local`.",
        )
    python = python_in_image(settings, layout) if settings.image else shlex.quote(sys.executable)
    executor = submitit.SlurmExecutor(folder=layout.logs.resolve() / "%A", python=python)
    parameters: dict[str, object] = {
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "time": settings.time_minutes,
        "setup": list(settings.setup) or None,
        "additional_parameters": {"requeue": True, **settings.sbatch},
        **more,
    }
    executor.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
    return executor


def python_in_image(settings: SubmitSettings, layout: RunLayout) -> str:
    """The command that runs Python in the image; submitit pastes it as it is, so every path is quoted."""
    return shlex.join([*apptainer("exec", settings, layout), "python3"])


def apptainer(verb: str, settings: SubmitSettings, layout: RunLayout) -> list[str]:
    """`apptainer exec` or `run` with what a task must see: the run folder, the weights, and --bind."""
    image = Path(settings.image or os.environ[OUR_IMAGE]).absolute()
    if settings.image and not image.exists():
        raise UsageError(f"--image {settings.image}: no such image.", remedy="Give the path of hpc_embed.sif.")
    folder = read_plan(layout.plan).model.folder
    binds = [str(layout.root.resolve()), *([folder] if folder else []), *settings.bind]
    return ["apptainer", verb, "--nv", *(word for bind in binds for word in ("--bind", bind)), str(image)]
