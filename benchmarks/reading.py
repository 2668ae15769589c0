"""What it takes to read one record of a dataset, beside Parquet's own reader.

    python -m benchmarks.reading [--records 1000000 5000000] [--dimension 320] [--folder FOLDER] [--json]

Drawn outputs are gathered, in some 200 parts at five million records; then a fresh process opens one and
reads records by random ids: first with nothing of the files in the machine's memory, then others once all is there,
then the same again. The peer is `pyarrow.parquet.read_table` with a filter on the id.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import measuring
from benchmarks.filled import filled_run
from benchmarks.measuring import Answer, Figure, Table
from benchmarks.reading_one import Reading
from hpc_embed.config import GatherSettings
from hpc_embed.results.gather import gather

RECORDS_PER_SHARD = 25_000
PART_MEBIBYTES = 32


def answer(numbers_of_records: list[int], dimension: int, folder: Path) -> Answer:
    """Each dataset made, read and removed."""
    rows, figures = [], []
    for num_records in numbers_of_records:
        place = folder / f"{num_records}"
        plan, layout = filled_run(place, num_records, dimension, max(1, num_records // RECORDS_PER_SHARD))
        settings = GatherSettings(part_mebibytes=PART_MEBIBYTES, report=False)
        seconds = gather(plan, layout, settings).seconds
        command = [sys.executable, "-m", "benchmarks.reading_one", str(layout.root)]
        found = Reading(*json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
        index_mebibytes = layout.dataset_index.stat().st_size / (1 << 20)
        shutil.rmtree(place)
        pairs = {"cold": found.cold, "warm": found.warm, "same": found.same, "peer": found.peer}
        for name, (median, slow) in pairs.items():
            figures.append(Figure(f"{name}_{num_records}_p50", median, "us"))
            figures.append(Figure(f"{name}_{num_records}_p99", slow, "us"))
        figures += [
            Figure(f"open_{num_records}", found.open_milliseconds, "ms"),
            Figure(f"resident_{num_records}", found.resident_mebibytes, "MiB"),
            Figure(f"scan_{num_records}", found.scanned_per_second, "records/s"),
            Figure(f"index_{num_records}", index_mebibytes, "MiB"),
            Figure(f"gathering_{num_records}", seconds, "s"),
        ]
        rows.append(
            [
                f"{num_records:,} x {dimension}",
                f"{found.open_milliseconds:.0f} ms",
                *(f"{p50:,.0f} ({p99:,.0f}) us" for p50, p99 in pairs.values()),
                f"{found.resident_mebibytes:.0f} MiB",
                f"{found.scanned_per_second:,.0f} /s",
                f"{index_mebibytes:.0f} MiB",
                f"{seconds:.1f} s",
            ]
        )
    headings = [
        "records",
        "open",
        "cold",
        "warm",
        "read before",
        "read_table, filter",
        "resident",
        "all",
        "index",
        "gather",
    ]
    note = "By id, at the median and in brackets at the 99th of a hundred; gather made the dataset and its index."
    return Answer([Table("Reading one record of a dataset", headings, rows, note)], figures)


def main() -> None:
    """Ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--dimension", type=int, default=320)
    parser.add_argument("--folder", type=Path, help="where the datasets go [default: a temporary folder]")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--reports", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        found = answer(options.records, options.dimension, Path(name))
    measuring.show(found, as_json=options.json)
    if options.reports:
        measuring.write_report(options.reports / f"{datetime.now(UTC).date()}-reading.md", "A dataset read back", found)


if __name__ == "__main__":
    main()
