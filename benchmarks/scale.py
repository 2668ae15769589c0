"""How planning and looking after a run grow with it.

    python -m benchmarks.scale [--records 100000 1000000] [--shards 10000 100000] [--gather 1000000x420]
                               [--json] [--reports FOLDER]

The files are counted that a task and a look at a whole run open. Synthetic proteins (median 300 residues, lines of 60)
are planned beside Biopython's bare parse of the same file. Drawn outputs are gathered beside pyarrow's bare copy of
them. Every way runs in a fresh process; wall time depends on who else uses the machine, processor time hardly does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median_high
from typing import NamedTuple

import numpy as np

from benchmarks import measuring
from benchmarks.filled import filled_run
from benchmarks.measuring import Answer, Figure, Table
from hpc_embed.cluster.task import outlook, own_outlook
from hpc_embed.config import PlanSettings, WorkSettings
from hpc_embed.planning.planner import make_plan
from hpc_embed.run import files
from hpc_embed.run.layout import RunLayout, shard_folders
from hpc_embed.run.markers import num_finished
from hpc_embed.run.plan import read_plan
from hpc_embed.run.shard_table import ShardFacts
from hpc_embed.run.shards import read_shard, write_shard
from hpc_embed.run.storage import Storage
from hpc_embed.run.survey import survey

RECORDS_PER_SHARD = 5000
RECORDS_PER_OUTPUT = 25_000
TURNS = 2
MOST_TURNS, RECORDS_IN_TURNS = 7, 5_000_000
PARSE = 0
"""In place of a number of threads: the peer."""
MEDIAN, SIGMA, SHORTEST, LONGEST = 300, 0.65, 30, 5000
LINE = 60


class Cost(NamedTuple):
    """What a way took, in a process of its own."""

    wall_seconds: float
    processor_seconds: float
    peak_mebibytes: float


def write_proteins(path: Path, num_records: int) -> None:
    """Random proteins of lengths as in UniRef."""
    draw = np.random.default_rng(1)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype=np.uint8)
    with path.open("wb") as file:
        for number in range(num_records):
            length = int(np.clip(draw.lognormal(np.log(MEDIAN), SIGMA), SHORTEST, LONGEST))
            residues = letters[draw.integers(0, 20, length)].tobytes()
            lines = b"\n".join(residues[at : at + LINE] for at in range(0, length, LINE))
            file.write(
                b">UniRef50_A%09d Uncharacterized protein n=%d TaxID=%d\n%b\n" % (number, 1, number % 99991, lines)
            )


def cost_of(way: str, fasta: Path, run: Path, threads: int, num_shards: int) -> Cost:
    """Run one way in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.scale_one", way, *map(str, (fasta, run, threads, num_shards))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


def planning(numbers_of_records: list[int], folder: Path) -> Answer:
    """Plan and bare parse side by side."""
    rows, figures = [], []
    for num_records in numbers_of_records:
        fasta = folder / "proteins.fasta"
        write_proteins(fasta, num_records)
        num_shards = -(-num_records // RECORDS_PER_SHARD)
        numbers_of_threads = sorted({1, len(os.sched_getaffinity(0))})
        costs: dict[int, list[Cost]] = {threads: [] for threads in (PARSE, *numbers_of_threads)}
        for _ in range(max(1, min(MOST_TURNS, RECORDS_IN_TURNS // num_records))):
            for threads, found in costs.items():
                way = "plan" if threads else "parse"
                found.append(cost_of(way, fasta, folder / "run", threads, num_shards))
                shutil.rmtree(folder / "run", ignore_errors=True)
        parsed = median_high(costs[PARSE])
        for threads in numbers_of_threads:
            planned = median_high(costs[threads])
            name = f"plan_{num_records}_{threads}"
            figures += [
                Figure(f"{name}_wall", planned.wall_seconds, "s"),
                Figure(f"{name}_over_parse", planned.wall_seconds / parsed.wall_seconds, ""),
                Figure(f"{name}_processor", planned.processor_seconds, "s"),
                Figure(f"{name}_peak", planned.peak_mebibytes, "MiB"),
            ]
            rows.append(
                [
                    f"{num_records:,}",
                    str(threads),
                    f"{planned.wall_seconds:.1f} s",
                    f"{parsed.wall_seconds:.1f} s",
                    f"{planned.wall_seconds / parsed.wall_seconds:.2f}",
                    f"{planned.processor_seconds:.1f} s",
                    f"{parsed.processor_seconds:.1f} s",
                    f"{planned.peak_mebibytes:.0f} MiB",
                ]
            )
    headings = ["records", "threads", "plan", "Bio.SeqIO", "ratio", "plan, processor", "Bio.SeqIO, processor", "peak"]
    load = os.getloadavg()[0]
    note = (
        f"The median of up to {MOST_TURNS} turns each, of a single one at more than {RECORDS_IN_TURNS // 2:,} records; "
        f"wall time with a load of {load:.1f} on {os.cpu_count()} cores at the end."
    )
    return Answer([Table("Planning beside a bare parse", headings, rows, note)], figures)


def gathering(sizes: list[str], folder: Path) -> Answer:
    """Gather and bare copy, turn about."""
    rows, figures = [], []
    for size in sizes:
        num_records, dimension = map(int, size.split("x"))
        place = folder / size
        _, layout = filled_run(place, num_records, dimension, max(1, num_records // RECORDS_PER_OUTPUT))
        costs: dict[str, list[Cost]] = {"gather": [], "copy": []}
        for _ in range(TURNS):
            for way, found in costs.items():
                found.append(cost_of(way, Path("-"), layout.root, len(os.sched_getaffinity(0)), 0))
            shutil.rmtree(layout.dataset)
            layout.dataset_facts.unlink()
        shutil.rmtree(place)
        ours, copied = (min(costs[way]) for way in ("gather", "copy"))
        peak = max(cost.peak_mebibytes for cost in costs["gather"])
        ratio = ours.wall_seconds / copied.wall_seconds
        figures += [
            Figure(f"gather_{size}_wall", ours.wall_seconds, "s"),
            Figure(f"copy_{size}_wall", copied.wall_seconds, "s"),
            Figure(f"gather_{size}_over_copy", ratio, ""),
            Figure(f"gather_{size}_peak", peak, "MiB"),
        ]
        cells = [ours.wall_seconds, copied.wall_seconds, ours.processor_seconds, copied.processor_seconds]
        gather_s, copy_s, gather_cpu, copy_cpu = (f"{seconds:.1f} s" for seconds in cells)
        rows.append([size, gather_s, copy_s, f"{ratio:.2f}", gather_cpu, copy_cpu, f"{peak:.0f} MiB"])
    headings = ["size", "gather", "copy", "ratio", "gather, processor", "copy, processor", "peak of gather"]
    note = f"The better of {TURNS} turns each; the copy checks nothing, keeps the outputs' order and is synced as well."
    return Answer([Table("Gathering beside a bare copy", headings, rows, note)], figures)


class Counting(Storage):
    """Counts what is asked of the file system."""

    def __init__(self) -> None:
        self.num_opened = self.num_asked = self.num_listed = 0

    def open_to_read(self, path: Path):  # type: ignore[no-untyped-def]
        self.num_opened += 1
        return super().open_to_read(path)

    def status(self, path: Path) -> os.stat_result:
        self.num_asked += 1
        return super().status(path)

    def names(self, folder: Path) -> list[str]:
        self.num_listed += 1
        return super().names(folder)


def large_run(folder: Path, num_shards: int) -> RunLayout:
    """A run of so many shards whose names say that all but the last hundred are done."""
    fasta, layout = folder / "one.fasta", RunLayout(folder / f"run-{num_shards}")
    fasta.write_text(">a\nMKV\n")
    settings = PlanSettings(fasta=(str(fasta),), model="aa_composition", force_kind=True)
    small = make_plan(settings, layout).plan
    facts = ShardFacts(num_windows=1, num_residues=3, num_tokens=3, flops=12)
    replace(small, shards=[facts] * num_shards).write(layout.plan)
    for root in (layout.outputs, layout.work, layout.shards):
        for path in shard_folders(root, num_shards):
            path.mkdir(parents=True, exist_ok=True)
    for index in range(num_shards - 100):
        layout.output(index).touch()
        layout.marker(index).touch()
    write_shard(layout.shard(num_shards - 1), np.array([0]), [b"MKV"])
    return layout


def task_start(layout: RunLayout, num_shards: int) -> None:
    """What a task of one shard asks before it embeds."""
    made = read_plan(layout.plan)
    index = num_shards - 1
    num_finished(layout, index, made)
    for one in own_outlook([index], made, layout, WorkSettings()).to_do:
        read_shard(layout.shard(one))
        assert made.shards[one].num_windows == 1


def whole_look(layout: RunLayout, num_shards: int) -> None:
    """What `status` asks of the files."""
    made = read_plan(layout.plan)
    assert len(survey(layout, num_shards).done) == num_shards - 100 == len(list(made.shards)) - 100


def whole_outlook(layout: RunLayout, num_shards: int) -> None:
    """What `submit` asks of the files."""
    assert len(outlook(read_plan(layout.plan), layout, WorkSettings()).to_do) == 100


def looking(numbers_of_shards: list[int], folder: Path) -> Answer:
    """Files that a task, `status` and `submit` ask for."""
    rows, figures = [], []
    for num_shards in numbers_of_shards:
        layout = large_run(folder, num_shards)
        for who, look in (("task of one shard", task_start), ("status", whole_look), ("submit", whole_outlook)):
            counting = Counting()
            before, files.storage = files.storage, counting
            started = time.perf_counter()
            look(layout, num_shards)
            seconds = time.perf_counter() - started
            files.storage = before
            counts = (counting.num_opened, counting.num_asked, counting.num_listed)
            rows.append([f"{num_shards:,}", who, *map(str, counts), f"{seconds:.3f} s"])
            name = f"{who.split()[0]}_{num_shards}"
            figures += [Figure(f"{name}_opened", counts[0], "files"), Figure(f"{name}_listed", counts[2], "folders")]
            figures.append(Figure(f"{name}_seconds", seconds, "s"))
        shutil.rmtree(layout.root)
    headings = ["shards", "who", "opened", "asked for", "listed", "time"]
    note = "Through the seam to storage: Python's own files and, for status and submit, Slurm's answers come on top."
    return Answer([Table("Files of a run that are looked at", headings, rows, note)], figures)


def main() -> None:
    """Ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--shards", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--gather", nargs="+", default=["1000000x420"], metavar="RECORDSxDIMENSION")
    parser.add_argument("--folder", type=Path, help="where the files go [default: a temporary folder]")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--reports", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        place = Path(name)
        answers = [looking(options.shards, place), planning(options.records, place), gathering(options.gather, place)]
    found = Answer([table for one in answers for table in one.tables], [f for one in answers for f in one.figures])
    measuring.show(found, as_json=options.json)
    if options.reports:
        measuring.write_report(options.reports / f"{datetime.now(UTC).date()}-scale.md", "hpc-embed at scale", found)


if __name__ == "__main__":
    main()
