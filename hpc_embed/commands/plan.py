"""`hpc-embed plan`: what a run will do, and what it will cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hpc_embed.commands.printing import print_json, print_table
from hpc_embed.config import OutputSettings, PlanSettings, RunSettings
from hpc_embed.planning.forecast import describe, forecast
from hpc_embed.planning.planner import make_plan
from hpc_embed.progress import note
from hpc_embed.run.layout import RunLayout


def run(where: RunSettings, settings: PlanSettings, output: OutputSettings) -> int:
    """Plan, and print the forecast."""
    planned = make_plan(settings, RunLayout(Path(where.run_dir)))
    if not planned.is_new and not planned.is_mended:
        note(f"{where.run_dir} holds this very plan already; nothing to do")
    figures = forecast(planned.plan, where.run_dir, settings.device)
    if output.json:
        runs = [run._asdict() for run in figures.runs]
        print_json({**figures._asdict(), "totals": asdict(figures.totals), "runs": runs})
    else:
        print_table((), describe(figures))
    return 0
