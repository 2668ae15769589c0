"""`hpc-embed status`: how far a run is."""

from __future__ import annotations

import time
from pathlib import Path

from hpc_embed.cluster.status import RunStatus, ShardStatus, last_lines, run_status
from hpc_embed.cluster.whereabouts import Endings
from hpc_embed.commands.printing import print_json, print_line, print_table
from hpc_embed.config import OutputSettings, RunSettings, StatusSettings
from hpc_embed.errors import Incomplete
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import read_plan
from hpc_embed.units import format_seconds

STATES = ("done", "running", "suspended", "queued", "begun", "missing", "failed")
SLOWER, MOST_SECONDS = 1.5, 60.0
"""How much longer each pause is than the one before, and the longest: many may watch, and a run takes hours."""
LOOKS_UNTIL_OVER = 2
"""A job that is being requeued can be nowhere for a moment."""
MOST_ROWS = 40
MOST_LOGS = 3


def run(where: RunSettings, settings: StatusSettings, output: OutputSettings) -> int:
    """Print the state of every shard, once or until the run is over; the exit code is then 6 where some are missing."""
    layout = RunLayout(Path(where.run_dir))
    plan = read_plan(layout.plan)
    endings = Endings()
    quiet_looks = 0
    pause = settings.watch_seconds
    while True:
        status = run_status(plan, layout, endings)
        if output.json:
            content = {**status._asdict(), "shards": [shard._asdict() for shard in status.shards]}
            print_json(content, one_line=settings.watch)
        else:
            if settings.watch:
                _clear_screen()
            _print(status)
        all_done = status.count("done") == len(status.shards)
        if not settings.watch:
            return 0
        quiet_looks = quiet_looks + 1 if status.is_over else 0
        if (all_done and not status.gather_job) or quiet_looks >= LOOKS_UNTIL_OVER:
            return 0 if all_done else Incomplete.exit_code
        time.sleep(settings.watch_seconds if quiet_looks else pause)
        pause = max(pause, min(SLOWER * pause, MOST_SECONDS))


def _clear_screen() -> None:
    from rich.console import Console

    Console().clear()  # nothing where there is no screen


def _print(status: RunStatus) -> None:
    counts = ", ".join(f"{status.count(state)} {state}" for state in STATES if status.count(state))
    print_line(f"{status.run_dir}: {status.model}, {len(status.shards)} shards: {counts}")
    waiting = f"gather job {status.gather_job}" if status.gather_job else "not gathered yet"
    print_line(f"dataset: {'gathered' if status.is_gathered else waiting}")
    if status.slurm:
        print_line(f"Slurm was not asked: {status.slurm}")
    for text in status.notes:
        print_line(f"note: {text}")
    order = {"failed": 0, "running": 1, "suspended": 2, "begun": 3, "queued": 4, "missing": 5, "done": 6}
    notable = [shard for shard in status.shards if shard.state != "done" or shard.reason]
    notable.sort(key=lambda shard: (order[shard.state], shard.shard))
    if notable:
        print_table(("shard", "state", "windows", "left", "task", "reason"), map(_row, notable[:MOST_ROWS]))
    if any(shard.seconds_left is not None for shard in notable[:MOST_ROWS]):
        print_line("left: at the pace of the shard's own pieces so far")
    if len(notable) > MOST_ROWS:
        print(f"… and {len(notable) - MOST_ROWS} more; --json has all")
    for shard in [shard for shard in notable if shard.state == "failed" and shard.log][:MOST_LOGS]:
        print(f"\n{shard.log}:")
        print("\n".join(f"  {line}" for line in last_lines(shard.log)))


def _row(shard: ShardStatus) -> tuple[str, ...]:
    left = format_seconds(shard.seconds_left) if shard.seconds_left is not None else ""
    done = f"{shard.num_windows_done:,} of {shard.num_windows:,}"
    return shard.shard, shard.state, done, left, shard.task, shard.reason
