"""Every benchmark that needs no GPU, one after the other: `make bench`.

    python -m benchmarks [--json] [--reports benchmarks/reports]

Prints each answer once it is there, and writes a dated report: Markdown, and a JSON line per figure beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import dna_cpu, kernels_cpu, measuring, proteins_cpu, whole_command
from benchmarks.measuring import Answer

QUESTIONS: tuple[Callable[[], Answer], ...] = (
    kernels_cpu.answer,
    lambda: proteins_cpu.answer(proteins_cpu.FASTA, "esm2_t6_8M", num_records=64),
    lambda: proteins_cpu.answer(proteins_cpu.FASTA, "esm2_t12_35M", num_records=48),
    lambda: dna_cpu.answer(dna_cpu.FASTA, None, num_records=16),
    lambda: whole_command.answer(proteins_cpu.FASTA, num_records=6000),
)


def main() -> None:
    """Ask every question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--reports", type=Path, default=Path(__file__).parent / "reports")
    options = parser.parse_args()
    whole = Answer([], [])
    for ask in QUESTIONS:
        found = ask()
        measuring.show(found, as_json=options.json)
        whole = Answer([*whole.tables, *found.tables], [*whole.figures, *found.figures])
    path = options.reports / f"{datetime.now(UTC).date()}-cpu.md"
    measuring.write_report(path, "hpc-embed on a CPU", whole)


if __name__ == "__main__":
    main()
