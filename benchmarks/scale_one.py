"""One way of `benchmarks.scale` in a fresh process that has loaded nothing else: `python -m benchmarks.scale_one`.

    python -m benchmarks.scale_one plan|parse|gather|copy FASTA RUN THREADS SHARDS

Prints wall seconds, processor seconds and the peak of its memory in MiB, start-up left out of both times.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from Bio import SeqIO

from hpc_embed.config import GatherSettings, PlanSettings
from hpc_embed.planning.planner import make_plan
from hpc_embed.results.gather import gather
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import read_plan
from hpc_embed.run.vectors import ROW_GROUP_ROWS

MODEL = "esm2_t33_650M:untrained"


def plan(fasta: Path, run: Path, threads: int, shards: int) -> None:
    """Ours."""
    make_plan(PlanSettings(fasta=(str(fasta),), model=MODEL, num_shards=shards, plan_threads=threads), RunLayout(run))


def parse(fasta: Path) -> None:
    """The peer: Biopython reads every record, and nothing is done with it."""
    for _ in SeqIO.parse(fasta, "fasta"):
        pass


def gather_outputs(run: Path, threads: int) -> None:
    """Ours: every output proven, every record in its order, parts synced, an index made."""
    layout = RunLayout(run)
    gather(read_plan(layout.plan), layout, GatherSettings(gather_threads=threads, wait_seconds=0, report=False))


def copy(run: Path, threads: int) -> None:
    """The peer: pyarrow reads the outputs as they lie and writes one file, in row groups as large as ours, synced."""
    pa.set_cpu_count(threads)
    paths = sorted(RunLayout(run).outputs.glob("*.parquet"))
    with (run / "copy.parquet").open("wb") as file:
        with pq.ParquetWriter(file, pq.read_schema(paths[0]), compression="none", use_dictionary=False) as writer:
            for path in paths:
                for batch in pq.ParquetFile(path).iter_batches(ROW_GROUP_ROWS):
                    writer.write_batch(batch)
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    """Run it and tell."""
    way, fasta, run, threads, shards = sys.argv[1:]
    ways: dict[str, Callable[[], None]] = {
        "plan": lambda: plan(Path(fasta), Path(run), int(threads), int(shards)),
        "parse": lambda: parse(Path(fasta)),
        "gather": lambda: gather_outputs(Path(run), int(threads)),
        "copy": lambda: copy(Path(run), int(threads)),
    }
    pa.array([0.0])  # with its first array pyarrow imports pandas, where that is installed
    started, before = time.perf_counter(), time.process_time()
    ways[way]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([time.perf_counter() - started, time.process_time() - before, peak]))


if __name__ == "__main__":
    main()
