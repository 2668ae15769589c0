"""`hpc-embed local`: plan, embed on this machine's GPUs or CPU, gather."""

from __future__ import annotations

import sys
from pathlib import Path

from hpc_embed.cluster.devices import CPU, choose_devices
from hpc_embed.cluster.needs import refuse_missing_packages, refuse_slow_precision
from hpc_embed.cluster.task import embed_shards
from hpc_embed.commands.gather import tell
from hpc_embed.commands.printing import table_text
from hpc_embed.config import GatherSettings, OutputSettings, PlanSettings, RunSettings, WorkSettings
from hpc_embed.errors import Incomplete
from hpc_embed.planning.forecast import describe, forecast
from hpc_embed.planning.planner import make_plan
from hpc_embed.progress import note
from hpc_embed.registry import find_model, models
from hpc_embed.results.gather import Gathered, gather
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan

SHARDS_PER_WORKER = 4
"""So that the last shards still keep every worker busy."""


def run(
    where: RunSettings,
    settings: PlanSettings,
    work: WorkSettings,
    dataset: GatherSettings,
    output: OutputSettings,
) -> int:
    """Do the whole run, and tell what came of it."""
    plan, gathered = embed(where, settings, work, dataset)
    return tell(gathered, plan, RunLayout(Path(where.run_dir)), dataset, output)


def embed(
    where: RunSettings, settings: PlanSettings, work: WorkSettings, dataset: GatherSettings
) -> tuple[Plan, Gathered]:
    """Do the whole run; the same settings go on with one that was interrupted."""
    layout = RunLayout(Path(where.run_dir))
    refuse_missing_packages(settings.model)
    refuse_slow_precision(settings, work, _usual_devices(settings, work))
    planned = make_plan(settings, layout, usual_shards=SHARDS_PER_WORKER * _usual_workers(settings, work))
    plan = planned.plan
    devices = choose_devices(work, find_model(plan.model.registry_name))
    if planned.is_new:
        device = CPU if devices[0] == CPU else settings.device
        note(table_text((), describe(forecast(plan, where.run_dir, device, len(devices))), sys.stderr))
    else:
        note(f"going on with {where.run_dir}: {plan.totals.num_records:,} records, {len(plan.shards)} shards")
    result = embed_shards(plan, layout, range(len(plan.shards)), work, devices)
    if result.failed:
        names = ", ".join(f"{name} ({reason})" for name, reason in sorted(result.failed.items()))
        raise Incomplete(f"{len(result.failed)} shards failed: {names}.", remedy="The same command tries them again.")
    return plan, gather(plan, layout, dataset)


def _usual_workers(settings: PlanSettings, work: WorkSettings) -> int:
    """Workers that there would be for any model; the memory that one needs is not known before planning."""
    return len(_usual_devices(settings, work))


def _usual_devices(settings: PlanSettings, work: WorkSettings) -> list[int | str]:
    by_name = models()
    model = by_name.get(settings.model.partition(":")[0]) or by_name["aa_composition"]
    return choose_devices(work, model)
