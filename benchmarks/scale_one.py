"""One way of `benchmarks.scale` in a fresh process that has loaded nothing else: `python -m benchmarks.scale_one`.

    python -m benchmarks.scale_one plan|parse FASTA RUN THREADS SHARDS

Prints wall seconds, processor seconds and the peak of its memory in MiB, start-up left out of both times.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from Bio import SeqIO

from hpc_embed.config import PlanSettings
from hpc_embed.planning.planner import make_plan
from hpc_embed.run.layout import RunLayout

MODEL = "esm2_t33_650M:untrained"


def plan(fasta: Path, run: Path, threads: int, shards: int) -> None:
    """Ours."""
    make_plan(PlanSettings(fasta=(str(fasta),), model=MODEL, num_shards=shards, plan_threads=threads), RunLayout(run))


def parse(fasta: Path) -> None:
    """The peer: Biopython reads every record, and nothing is done with it."""
    for _ in SeqIO.parse(fasta, "fasta"):
        pass


def main() -> None:
    """Run it and tell."""
    way, fasta, run, threads, shards = sys.argv[1:]
    started, before = time.perf_counter(), time.process_time()
    plan(Path(fasta), Path(run), int(threads), int(shards)) if way == "plan" else parse(Path(fasta))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([time.perf_counter() - started, time.process_time() - before, peak]))


if __name__ == "__main__":
    main()
