"""`hpc-embed run-task`: embed some shards of a planned run; what an array task calls."""

from __future__ import annotations

import os
from pathlib import Path

from hpc_embed.cluster.array_task import run_shards
from hpc_embed.cluster.submission import read_submission
from hpc_embed.cluster.task import parse_shards
from hpc_embed.commands.printing import print_json
from hpc_embed.config import OutputSettings, RunSettings, TaskSettings, WorkSettings
from hpc_embed.errors import Incomplete, UsageError
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import read_plan


def run(where: RunSettings, task: TaskSettings, work: WorkSettings, output: OutputSettings) -> int:
    """Embed the shards that have no valid marker yet."""
    layout = RunLayout(Path(where.run_dir))
    plan = read_plan(layout.plan)
    shards = _shards_of_element(layout, task.submission) if task.submission else None
    if shards is None:
        shards = parse_shards(task.shards, len(plan.shards))
    code, result = run_shards(plan, layout, shards, work)
    if output.json:
        print_json({"finished": sorted(result.finished), "failed": result.failed})
    else:
        print(f"{len(result.finished)} shards finished, {len(result.failed)} failed")
    if result.failed:
        names = ", ".join(f"{name} ({reason})" for name, reason in sorted(result.failed.items()))
        raise Incomplete(f"{len(result.failed)} shards failed: {names}.", remedy="Run them again.")
    return code


def _shards_of_element(layout: RunLayout, token: str) -> list[int]:
    element = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    if not element.isdecimal():
        raise UsageError(f"--submission {token}: no array element of Slurm's.", remedy="Name the --shards instead.")
    return read_submission(layout, token).shards_of(int(element))
