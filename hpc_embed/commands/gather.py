"""`hpc-embed gather`: check every output and write the dataset."""

from __future__ import annotations

from pathlib import Path

from hpc_embed.commands.printing import print_json, print_line
from hpc_embed.commands.report import try_report
from hpc_embed.config import CheckSettings, GatherSettings, OutputSettings, RunSettings
from hpc_embed.errors import Incomplete
from hpc_embed.results.checking import Checked, check
from hpc_embed.results.gather import Gathered, gather
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan, read_plan
from hpc_embed.units import format_seconds


def run(where: RunSettings, settings: GatherSettings, looking: CheckSettings, output: OutputSettings) -> int:
    """Gather, and print what the dataset holds; or prove what was gathered before."""
    layout = RunLayout(Path(where.run_dir))
    if looking.check:
        _print_proof(check(layout), output.json)
        return 0
    plan = read_plan(layout.plan)
    gathered = gather(plan, layout, settings)
    return tell(gathered, plan, layout, settings, output)


def _print_proof(checked: Checked, as_json: bool) -> None:
    if as_json:
        print_json(checked._asdict())
        return
    print_line(f"dataset {checked.dataset}: {checked.num_records:,} records in {checked.num_parts} parts, as gathered")
    print_line(f"fingerprint {checked.fingerprint}, {', '.join(checked.versions)}")


def tell(gathered: Gathered, plan: Plan, layout: RunLayout, settings: GatherSettings, output: OutputSettings) -> int:
    """Make the report and print what was gathered; the exit code, 6 where records failed."""
    report = try_report(plan, layout) if settings.report else None
    _print(gathered, plan, output.json)
    if settings.layout == "shards" and not output.json:
        print_line(f"vectors stay in {layout.outputs}: the dataset is nothing without them")
    if report and not output.json:
        print_line(f"report {report}")
    return Incomplete.exit_code if gathered.statuses.get("failed") else 0


def _print(gathered: Gathered, plan: Plan, as_json: bool) -> None:
    if as_json:
        print_json(gathered._asdict())
        return
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(gathered.statuses.items()))
    untrained = " UNTRAINED, RANDOM WEIGHTS," if plan.model.is_untrained else ""
    print_line(f"{gathered.num_records:,} records: {statuses}")
    print_line(f"model {plan.model.name},{untrained} {gathered.precision}, dimension {plan.column_dimension}")
    state = f"written in {format_seconds(gathered.seconds)}" if gathered.is_new else "was there already"
    print_line(f"dataset {gathered.dataset} ({state})")
