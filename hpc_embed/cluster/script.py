"""A plain sbatch script for sites without submitit, or without Python on the host."""

from __future__ import annotations

import os
import shlex
import sys

from hpc_embed.cluster.array_task import REQUEUE_EXIT_CODE
from hpc_embed.cluster.slurm import DEFAULT_MAX_ARRAY_SIZE, max_array_size
from hpc_embed.cluster.submit import OUR_IMAGE, apptainer, gres_of
from hpc_embed.config import SubmitSettings, WorkSettings
from hpc_embed.errors import EnvironmentFault
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan


def plain_script(plan: Plan, layout: RunLayout, settings: SubmitSettings, work: WorkSettings) -> str:
    """A script whose task i embeds shards i * n to i * n + n - 1, those that are done left out by run-task."""
    try:
        size = max_array_size()
    except EnvironmentFault:  # printed inside an image, say
        size = DEFAULT_MAX_ARRAY_SIZE
    num_shards = len(plan.shards)
    per_task = max(settings.shards_per_task, -(-num_shards // size))
    options = {name: value for name, value in _options(plan, layout, settings, per_task).items() if value is not None}
    run_dir = str(layout.root.resolve())
    in_image = settings.image or OUR_IMAGE in os.environ
    program = apptainer("run", settings, layout) if in_image else [sys.executable, "-m", "hpc_embed"]
    arguments = ["run-task", "--run-dir", run_dir, *_work_arguments(work)]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={value}" for name, value in options.items()),
        "#SBATCH --requeue",
        "",
        *settings.setup,
        f"first=$((SLURM_ARRAY_TASK_ID * {per_task}))",
        f"last=$((first + {per_task - 1} < {num_shards - 1} ? first + {per_task - 1} : {num_shards - 1}))",
        "# srun passes Slurm's signal before the time limit on; the task then ends with the code below",
        f'srun {shlex.join([*program, *arguments])} --shards "$first-$last"',
        "code=$?",
        f'if [ $code -eq {REQUEUE_EXIT_CODE} ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
        "exit $code",
    ]
    return "\n".join(lines) + "\n"


def _options(plan: Plan, layout: RunLayout, settings: SubmitSettings, per_task: int) -> dict[str, object]:
    num_tasks = -(-len(plan.shards) // per_task)
    limit = f"%{settings.array_parallelism}" if settings.array_parallelism else ""
    return {
        "job-name": settings.job_name,
        "array": f"0-{num_tasks - 1}{limit}",
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "gres": gres_of(plan, settings),
        "ntasks": 1,
        "cpus-per-task": settings.cpus_per_task,
        "mem": f"{settings.memory_gibibytes}G" if settings.memory_gibibytes else None,
        "time": settings.time_minutes,
        "signal": f"USR2@{settings.signal_seconds}",
        "open-mode": "append",
        "output": shlex.quote(str(layout.logs.resolve() / "%A_%a.log")),
        **{name: value or True for name, value in settings.sbatch.items()},
    }


def _work_arguments(work: WorkSettings) -> list[str]:
    default = WorkSettings()
    words: list[str] = []
    for name in ("devices", "workers", "token_budget", "piece_seconds", "max_tries", "weights_copy"):
        value = getattr(work, name)
        if value != getattr(default, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words
