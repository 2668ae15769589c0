"""`hpc-embed status`: how far a run is."""

from __future__ import annotations

from pathlib import Path

from hpc_embed.commands.printing import print_json, print_table
from hpc_embed.config import OutputSettings, RunSettings
from hpc_embed.results.status import RunStatus, run_status
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import read_plan

STATES = ("done", "begun", "waiting", "failed")
MOST_ROWS = 40


def run(where: RunSettings, output: OutputSettings) -> int:
    """Print the state of every shard."""
    layout = RunLayout(Path(where.run_dir))
    status = run_status(read_plan(layout.plan), layout)
    if output.json:
        print_json({**status._asdict(), "shards": [shard._asdict() for shard in status.shards]})
    else:
        _print(status)
    return 0


def _print(status: RunStatus) -> None:
    counts = ", ".join(f"{status.count(state)} {state}" for state in STATES if status.count(state))
    print(f"{status.run_dir}: {status.model}, {len(status.shards)} shards: {counts}")
    print("dataset: gathered" if status.is_gathered else "dataset: not gathered yet")
    notable = [shard for shard in status.shards if shard.state != "done" or shard.reason]
    rows = [(s.shard, s.state, f"{s.num_windows_done:,} of {s.num_windows:,}", s.reason) for s in notable[:MOST_ROWS]]
    if rows:
        print_table(("shard", "state", "windows", "reason"), rows)
    if len(notable) > MOST_ROWS:
        print(f"… and {len(notable) - MOST_ROWS} more; --json has all")
