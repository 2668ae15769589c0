"""A planned run handed to Slurm through submitit: arrays of tasks, and a gather job that waits for them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
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
            running = [one for one in submissions if any(shard in queued for task in one.tasks for shard in task)]
            gather_job = _submit_gather(layout, settings, dataset, [one.job for one in [*running, *arrays]])
            for array in arrays:
                replace(array, gather_job=gather_job).write(layout.submissions)
    return Submitted(done, len(queued), len(quarantined), len(todo), tuple(array.job for array in arrays), gather_job)


def refuse_unloadable(plan: Plan) -> None:
    """Raise EnvironmentFault where the planned weights are not to be found any more."""
    if plan.model.folder and not weight_files(Path(plan.model.folder)):
        raise EnvironmentFault(
            f"{plan.model.folder}: the weights of {plan.model.name} are not there, so no node could load them.",
            remedy="Put them back (`hpc-embed stage-model`), or plan again with another --model.",
        )


def script_text(plan: Plan, layout: RunLayout, settings: SubmitSettings, num_tasks: int) -> str:
    """The very script that `submit` hands to sbatch for an array of so many tasks, or for the first of several."""
    executor = _array_executor(layout, plan, settings)
    executor.parameters["map_count"] = min(num_tasks, max_array_size())
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


def _bundles(shards: Sequence[int], shards_per_task: int) -> list[tuple[int, ...]]:
    return [tuple(shards[start : start + shards_per_task]) for start in range(0, len(shards), shards_per_task)]


def _submit_arrays(
    layout: RunLayout,
    tasks: list[tuple[int, ...]],
    plan: Plan,
    settings: SubmitSettings,
    work: WorkSettings,
) -> list[Submission]:
    """Submit arrays of at most the site's size; each is written down before the next is submitted."""
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
        array = Submission(job=jobs[0].job_id.partition("_")[0], tasks=tuple(part), gather_job="")
        array.write(layout.submissions)
        arrays.append(array)
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
    binds = [str(layout.root.resolve()), *_weight_folders(read_plan(layout.plan)), *settings.bind]
    return ["apptainer", verb, "--nv", *(word for bind in binds for word in ("--bind", bind)), str(image)]


def _weight_folders(plan: Plan) -> list[str]:
    """The checkpoint's folder, and those that its files are links to, as in the hub cache."""
    if not plan.model.folder:
        return []
    folder = Path(plan.model.folder)
    return sorted({str(folder), *(str(path.resolve().parent) for path in folder.iterdir())})
