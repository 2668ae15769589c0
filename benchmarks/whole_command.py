"""How much of the engine's rate is left in the whole command, from FASTA to dataset?

    python -m benchmarks.whole_command [--fasta FILE] [--records 6000] [--json]

`hpc-embed local` on every core, one worker each, by the wall clock: interpreter, reading, planning, spawning,
embedding, pieces, gathering. Beside it the engine alone: as many processes at once, each embedding a sample of the
same proteins that are already tokens.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks import measuring
from benchmarks.measuring import Answer, Figure, Table, Windows
from benchmarks.proteins_cpu import FASTA, LONGEST, run_way
from hpc_embed.engine.tokens import residue_table
from hpc_embed.families.esm2 import RESIDUES
from hpc_embed.sequences.fasta import read_fasta

MODEL = "esm2_t6_8M"
WAY = "hpc-embed, FP32"
SAMPLE = 400
"""Proteins that each process of the engine's measurement embeds."""
BAR = 0.95


def answer(fasta: Path, num_records: int) -> Answer:
    """Measure the engine, the command, and the engine again."""
    sequences = [record.sequence for record in read_fasta(str(fasta))]
    chosen = [sequences[place] for place in np.linspace(0, len(sequences) - 1, num_records).astype(int)]
    windows = residue_table(RESIDUES)([sequence.upper()[:LONGEST] for sequence in chosen])
    num_workers = len(os.sched_getaffinity(0))
    before = _engine(windows, num_workers)
    num_tokens, seconds = _command(chosen, num_workers)
    after = _engine(windows, num_workers)
    engine, command = (before + after) / 2, num_tokens / seconds
    share = command / engine
    rows = [
        ["engine alone, before", f"{before:,.0f}", ""],
        ["engine alone, after", f"{after:,.0f}", ""],
        ["hpc-embed local", f"{command:,.0f}", f"{share:.1%}"],
    ]
    note = (
        f"{num_tokens:,} tokens in {seconds:.0f} s, {num_workers} workers. At least {BAR:.0%} is wanted: "
        f"{'yes' if share >= BAR else 'NO'}."
    )
    title = f"{MODEL}, FP32: {num_records:,} proteins, from FASTA to dataset"
    return Answer(
        [Table(title, ("", "tokens/s, all cores", "of the engine's"), rows, note)],
        [
            Figure(f"{MODEL}: whole command", command, "tokens/s"),
            Figure(f"{MODEL}: whole command over the engine alone", share, "times"),
        ],
    )


def _engine(windows: Windows, num_workers: int) -> float:
    """Tokens per second of all processes together."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        stride = max(1, len(windows) // SAMPLE)
        samples = [windows[first::stride] for first in range(num_workers)]
        return sum(
            each.tokens_per_second for each in pool.map(run_way, [WAY] * num_workers, [MODEL] * num_workers, samples)
        )


def _command(sequences: list[bytes], num_workers: int) -> tuple[int, float]:
    """Tokens that `local` embedded, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        fasta, run = Path(folder, "in.fasta"), Path(folder, "run")
        fasta.write_bytes(b"".join(b">%d\n%s\n" % (i, sequence) for i, sequence in enumerate(sequences)))
        command = [sys.executable, "-m", "hpc_embed", "local", str(fasta), "--run-dir", str(run)]
        started = time.perf_counter()
        subprocess.run(
            [*command, "--model", f"{MODEL}:untrained", "--workers", str(num_workers)], check=True, capture_output=True
        )
        seconds = time.perf_counter() - started
        markers = [json.loads(path.read_text()) for path in (run / "outputs").glob("*.done.json")]
    return sum(marker["facts"]["num_tokens"] for marker in markers), seconds


def main() -> None:
    """Measure, and print a table or a JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fasta", type=Path, default=FASTA)
    parser.add_argument("--records", type=int, default=6000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    measuring.show(answer(options.fasta, options.records), as_json=options.json)


if __name__ == "__main__":
    main()
