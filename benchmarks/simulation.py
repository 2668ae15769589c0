"""The simulated run beside real ones, and what it says of runs that nobody here can make.

    python -m benchmarks.simulation [--records 1500] [--shards 6 10 16 30] [--json] [--reports FOLDER]

As root, with Slurm's daemons: a cluster of three nodes is brought up on this machine, and ESM-2 8M with random weights
embeds drawn proteins, two elements at a time, one core each. The run of the first number of shards tells what a start,
a FLOP and Slurm's turn to the next element take; the others are simulated with it and then made. Without Slurm the
table of large runs is all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from benchmarks import measuring
from benchmarks.measuring import Answer, Figure, Table
from benchmarks.scale import write_proteins
from hpc_embed.planning.cost import cost_of
from hpc_embed.planning.forecast import seconds_on
from hpc_embed.planning.simulation import OPERATIONS_OF_AN_IMAGE, Simulated, Site, simulate
from hpc_embed.registry import find_model
from hpc_embed.run.layout import RunLayout, shard_name
from hpc_embed.run.markers import read_marker
from hpc_embed.run.plan import Plan, read_plan
from hpc_embed.units import format_seconds
from tests.slurm.conftest import PROGRAMS, Cluster, a_cluster

AT_ONCE = 2
MEAN_TOKENS = 366
"""Of a record of the drawn proteins, special ones included."""


class Made(NamedTuple):
    """A real run, in seconds since the first element ran."""

    plan: Plan
    starts: list[float]
    ends: list[float]
    """When markers appeared."""
    busy: list[float]
    """From the begin of a shard to its last batch, by shard."""

    @property
    def makespan_seconds(self) -> float:
        return max(self.ends)


def make_run(cluster: Cluster, fasta: Path, folder: Path, num_shards: int) -> Made:
    """Plan, submit, and watch."""
    run = folder / f"run-{num_shards}"
    environment = {**os.environ, **cluster.env, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def call(*words: object) -> None:
        command = [sys.executable, "-m", "hpc_embed", *map(str, words), "--run-dir", str(run)]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    call("plan", fasta, "--model", "esm2_t6_8M:untrained", "--num-shards", num_shards)
    layout = RunLayout(run)
    plan = read_plan(layout.plan)
    call(
        *("submit", "--partition", "gpu", "--devices", "cpu", "--workers", 1, "--cpus-per-task", 1, "--no-gather"),
        *("--array-parallelism", AT_ONCE, "--gpus", 0),
    )
    seen: dict[str, float] = {}
    while True:
        listed = cluster.ask("squeue", "--noheader", "--array", "--states=all", "--format=%i %T").split("\n")
        states = dict(line.split() for line in listed if line)
        for element, state in states.items():
            if state == "RUNNING":
                seen.setdefault(element, time.time())
        if states and not {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"} & set(states.values()):
            break
        time.sleep(0.1)
    names = [shard_name(index) for index in range(len(plan.shards))]
    markers = [read_marker(layout.outputs, name) for name in names]
    assert all(markers), [path.read_text() for path in layout.logs.rglob("*.out")]
    first = min(seen.values())
    ends = [layout.marker(index).stat().st_mtime - first for index in range(len(names))]
    time.sleep(6)  # until Slurm has forgotten these jobs
    return Made(plan, sorted(at - first for at in seen.values()), ends, [m.facts.seconds for m in markers if m])


def site_of(made: Made) -> Site:
    """What this run says of the place."""
    ends = sorted(made.ends)
    waits = [start - ends[at] for at, start in enumerate(made.starts[AT_ONCE:])]
    starting = sum(ends) - sum(made.starts) - sum(made.busy)
    return Site(
        AT_ONCE,
        start_seconds=starting / len(ends),
        shard_seconds=0.0,
        schedule_seconds=max(statistics.mean(waits), 0.0),
        start_operations=0,
    )


def rate_of(made: Made) -> float:
    """FLOPs a second of work: the machine's pace, which is not the same from minute to minute."""
    return sum(shard.flops for shard in made.plan.shards) / sum(made.busy)


def seconds_of_shards(made: Made, rate: float) -> list[float]:
    """By the plan's FLOPs."""
    return [shard.flops / rate for shard in made.plan.shards]


def beside_real_runs(numbers_of_shards: list[int], num_records: int) -> Answer:
    """Calibrate on the first, foretell the others."""
    rows, figures = [], []
    folder = Path(tempfile.mkdtemp(prefix="hpc-embed-simulation-"))
    folder.chmod(0o755)
    try:
        with a_cluster() as cluster:
            fasta = folder / "in.fasta"
            write_proteins(fasta, num_records)
            known = make_run(cluster, fasta, folder, numbers_of_shards[0])
            site, rate = site_of(known), rate_of(known)
            for num_shards in numbers_of_shards:
                made = known if num_shards == numbers_of_shards[0] else make_run(cluster, fasta, folder, num_shards)
                told = simulate(seconds_of_shards(made, rate), 1, site).makespan_seconds
                pace = rate_of(made) / rate
                own = site._replace(start_seconds=site.start_seconds / pace)
                at_pace = simulate(seconds_of_shards(made, rate_of(made)), 1, own).makespan_seconds
                errors = [seconds / made.makespan_seconds - 1 for seconds in (told, at_pace)]
                figures += [
                    Figure(f"simulated_{num_shards}", told, "s"),
                    Figure(f"real_{num_shards}", made.makespan_seconds, "s"),
                    Figure(f"error_{num_shards}", errors[0], ""),
                    Figure(f"error_at_pace_{num_shards}", errors[1], ""),
                ]
                use = "calibration" if made is known else "foretold"
                seconds = (f"{told:.1f} s", f"{made.makespan_seconds:.1f} s", f"{errors[0]:+.1%}")
                cells = [str(num_shards), use, *seconds, f"{pace:.2f}", f"{at_pace:.1f} s", f"{errors[1]:+.1%}"]
                rows.append(cells)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    note = (
        f"{num_records} proteins, {AT_ONCE} elements at a time; a start takes {site.start_seconds:.1f} s, and from an "
        f"end to the next start {site.schedule_seconds:.1f} s."
    )
    headings = ["shards", "", "simulated", "real", "error", "pace", "simulated at that pace", "error"]
    return Answer([Table("Simulated and real makespan", headings, rows, note)], figures)


def large_runs() -> Answer:
    """10⁹ proteins on a thousand A100s, and what stands in the way."""
    model = find_model("esm2_t33_650M")
    cost = cost_of(model)
    flops = 1e9 * MEAN_TOKENS * (cost.linear_flops + MEAN_TOKENS * cost.quadratic_flops)
    hours = seconds_on("a100", cost, flops, int(1e9 * MEAN_TOKENS)) / 3600
    weights = {"weight_bytes": 2.0 * cost.linear_flops}
    image = {**weights, "start_operations": OPERATIONS_OF_AN_IMAGE}
    ways: dict[str, tuple[float, Site]] = {
        "Python on shared storage": (30, Site(1000, **weights)),  # type: ignore[arg-type]
        "from an image": (30, Site(1000, **image)),  # type: ignore[arg-type]
        "shards of 5 minutes": (5, Site(1000, **image)),  # type: ignore[arg-type]
        "shards of 5 minutes, Python on shared storage": (5, Site(1000, **weights)),  # type: ignore[arg-type]
        "shards of 4 hours": (240, Site(1000, **image)),  # type: ignore[arg-type]
        "taken once in 5 hours": (30, Site(1000, **image, taken_per_hour=0.2)),  # type: ignore[arg-type]
        "the same, shards of 4 hours": (240, Site(1000, **image, taken_per_hour=0.2)),  # type: ignore[arg-type]
        "half of the devices half as fast": (30, Site(1000, (1.0, 0.5), **image)),  # type: ignore[arg-type]
    }
    rows, figures = [], []
    for name, (minutes, site) in ways.items():
        num_shards = round(hours * 60 / minutes)
        found = simulate([hours * 3600 / num_shards] * num_shards, 1, site)
        rows.append(_row(name, num_shards, hours, found))
        figures.append(Figure(f"{name}: makespan", found.makespan_seconds, "s"))
        figures.append(Figure(f"{name}: held over work", found.device_seconds / hours / 3600, ""))
    headings = ["10⁹ proteins, 650M, 1,000 A100s", "shards", "makespan", "held over work", "longest wait of a start"]
    headings += ["file calls", "a second"]
    note = (
        f"{hours:,.0f} GPU-hours of work by the plan's cost model; the file server answers 20,000 calls a second and "
        "sends 10 GB a second."
    )
    return Answer([Table("Large runs, simulated", headings, rows, note)], figures)


def _row(name: str, num_shards: int, hours: float, found: Simulated) -> list[str]:
    return [
        name,
        f"{num_shards:,}",
        format_seconds(found.makespan_seconds),
        f"{found.device_seconds / hours / 3600:.3f}",
        format_seconds(found.longest_wait_seconds),
        f"{found.operations / 1e6:.1f} million",
        f"{found.operations / found.makespan_seconds:,.0f}",
    ]


def main() -> None:
    """Ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1500)
    parser.add_argument("--shards", type=int, nargs="+", default=[6, 10, 16, 30])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--reports", type=Path)
    options = parser.parse_args()
    answers = [large_runs()]
    if os.geteuid() == 0 and all(map(shutil.which, PROGRAMS)):
        answers.append(beside_real_runs(options.shards, options.records))
    found = Answer([table for one in answers for table in one.tables], [f for one in answers for f in one.figures])
    measuring.show(found, as_json=options.json)
    if options.reports:
        path = options.reports / f"{datetime.now(UTC).date()}-simulation.md"
        measuring.write_report(path, "hpc-embed simulated", found)


if __name__ == "__main__":
    main()
