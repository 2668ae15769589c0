"""A plain sbatch script for sites without submitit, or without Python on the host."""

from __future__ import annotations

import os
import shlex

from hpc_embed.cluster.sbatch import (
    check_options,
    closing_lines,
    flags_of,
    gres_of,
    opening_lines,
    our_command,
    sbatch_options,
)
from hpc_embed.cluster.slurm import DEFAULT_MAX_ARRAY_SIZE, max_array_size
from hpc_embed.config import SubmitSettings, WorkSettings
from hpc_embed.errors import EnvironmentFault
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan


def plain_script(plan: Plan, layout: RunLayout, settings: SubmitSettings, work: WorkSettings) -> str:
    """A script whose task i embeds shards i * n to i * n + n - 1, those that are done left out by run-task."""
    check_options(layout, settings)
    try:
        size = max_array_size()
    except EnvironmentFault:  # printed inside an image, say
        size = DEFAULT_MAX_ARRAY_SIZE
    num_shards = len(plan.shards)
    per_task = max(settings.shards_per_task, -(-num_shards // size))
    options = {name: value for name, value in _options(plan, layout, settings, per_task).items() if value is not None}
    arguments = ["run-task", "--run-dir", str(layout.root.resolve()), *flags_of(work)]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{name}" + ("" if value is True else f"={_quoted(value)}") for name, value in options.items()),
        "#SBATCH --requeue",
        "",
        *opening_lines(settings, layout.logs.resolve(), work.max_tries),
        *settings.setup,
        f"first=$((SLURM_ARRAY_TASK_ID * {per_task}))",
        f"last=$((first + {per_task - 1} < {num_shards - 1} ? first + {per_task - 1} : {num_shards - 1}))",
        f'srun {shlex.join([*our_command(settings, layout), *arguments])} --shards "$first-$last"',
        *closing_lines(),
    ]
    return "\n".join(lines) + "\n"


def _quoted(value: object) -> str:
    return shlex.quote(os.fspath(value) if isinstance(value, os.PathLike) else str(value))


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
        "output": layout.logs.resolve() / "%A_%a.log",
        **{name: value or True for name, value in sbatch_options(settings).items()},
    }
