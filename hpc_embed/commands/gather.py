"""`hpc-embed gather`: check every output and write the dataset."""

from __future__ import annotations

from pathlib import Path

from hpc_embed.commands.printing import print_json
from hpc_embed.config import GatherSettings, OutputSettings, RunSettings
from hpc_embed.errors import Incomplete
from hpc_embed.progress import format_seconds
from hpc_embed.results.gather import Gathered, gather
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan, read_plan


def run(where: RunSettings, settings: GatherSettings, output: OutputSettings) -> int:
    """Gather, and print what the dataset holds."""
    layout = RunLayout(Path(where.run_dir))
    plan = read_plan(layout.plan)
    gathered = gather(plan, layout, settings)
    report(gathered, plan, output.json)
    return exit_code(gathered)


def report(gathered: Gathered, plan: Plan, as_json: bool) -> None:
    """Print what was gathered."""
    if as_json:
        print_json(gathered._asdict())
        return
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(gathered.statuses.items()))
    untrained = " UNTRAINED, RANDOM WEIGHTS," if plan.model.is_untrained else ""
    print(f"{gathered.num_records:,} records: {statuses}")
    print(f"model {plan.model.name},{untrained} {gathered.precision}, dimension {plan.dimension}")
    state = f"written in {format_seconds(gathered.seconds)}" if gathered.is_new else "was there already"
    print(f"dataset {gathered.dataset} ({state})")


def exit_code(gathered: Gathered) -> int:
    """6 where records failed."""
    return Incomplete.exit_code if gathered.statuses.get("failed") else 0
