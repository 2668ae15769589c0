"""`hpc-embed run-task`: embed some shards of a planned run; what an array task calls."""

from __future__ import annotations

from pathlib import Path

from hpc_embed.cluster.array_task import run_shards
from hpc_embed.cluster.task import parse_shards
from hpc_embed.commands.printing import print_json
from hpc_embed.config import OutputSettings, RunSettings, TaskSettings, WorkSettings
from hpc_embed.errors import Incomplete
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import read_plan


def run(where: RunSettings, task: TaskSettings, work: WorkSettings, output: OutputSettings) -> int:
    """Embed the shards that have no valid marker yet."""
    layout = RunLayout(Path(where.run_dir))
    plan = read_plan(layout.plan)
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
