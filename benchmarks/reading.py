"""What it takes to read one record of a dataset, beside Parquet's own reader.

    python -m benchmarks.reading [--records 1000000 5000000] [--dimension 320] [--folder FOLDER] [--json]

Datasets are made by gather's own writer, in some 200 parts at five million records; then a fresh process opens one and
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
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import measuring
from benchmarks.measuring import Answer, Figure, Table
from benchmarks.reading_one import Reading
from hpc_embed.planning.records import SCHEMA
from hpc_embed.results.checks import WindowVectors
from hpc_embed.results.dataset import Arrangement, dataset_schema, write_parts
from hpc_embed.results.index import publish_index
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.outputs import outputs_of

RECORDS_AT_ONCE = 1 << 16
PART_MEBIBYTES = 32


def record_id(number: int) -> str:
    """As UniRef's."""
    return f"UniRef50_A{number:09d}"


def write_records(path: Path, num_records: int) -> None:
    """records.parquet of so many records, each with a window of its own."""
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for start in range(0, num_records, RECORDS_AT_ONCE):
            numbers = range(start, min(start + RECORDS_AT_ONCE, num_records))
            same = {"description": "", "length": 300, "source": 0, "status": "embedded", "reason": "", "num_unknown": 0}
            columns: dict[str, Sequence[object]] = {name: [value] * len(numbers) for name, value in same.items()}
            columns |= {"ordinal": numbers, "line": numbers, "id": [record_id(number) for number in numbers]}
            columns["windows"] = [[number] for number in numbers]
            writer.write_table(pa.table(columns, schema=SCHEMA))


class Made(NamedTuple):
    """What a dataset took."""

    parts_seconds: float
    index_seconds: float


def write_dataset(layout: RunLayout, num_records: int, dimension: int) -> Made:
    """As gather writes it."""
    layout.dataset.mkdir(parents=True)
    write_records(layout.records, num_records)
    numbers = np.random.default_rng(0).standard_normal(num_records + dimension).astype(np.float32)
    vectors_RD = np.lib.stride_tricks.sliding_window_view(numbers, dimension)[:num_records]  # each begins one later
    windows = WindowVectors(vectors_RD, np.arange(num_records), np.full(num_records, 300, dtype=np.int32), False)
    outputs = outputs_of("mean", 6)
    how, schema = Arrangement(outputs, 2, None), dataset_schema(dimension, "float32", {}, outputs)
    started = time.perf_counter()
    write_parts(layout.dataset, layout.records, windows, how, schema, PART_MEBIBYTES)
    written = time.perf_counter()
    facts = {"index": publish_index(layout)._asdict()}
    layout.dataset_facts.write_text(json.dumps(facts))
    return Made(written - started, time.perf_counter() - written)


def answer(numbers_of_records: list[int], dimension: int, folder: Path) -> Answer:
    """Each dataset made, read and removed."""
    rows, figures = [], []
    for num_records in numbers_of_records:
        layout = RunLayout(folder / f"run-{num_records}")
        made = write_dataset(layout, num_records, dimension)
        command = [sys.executable, "-m", "benchmarks.reading_one", str(layout.root)]
        found = Reading(*json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
        index_mebibytes = layout.dataset_index.stat().st_size / (1 << 20)
        shutil.rmtree(layout.root)
        pairs = {"cold": found.cold, "warm": found.warm, "same": found.same, "peer": found.peer}
        for name, (median, slow) in pairs.items():
            figures.append(Figure(f"{name}_{num_records}_p50", median, "us"))
            figures.append(Figure(f"{name}_{num_records}_p99", slow, "us"))
        figures += [
            Figure(f"open_{num_records}", found.open_milliseconds, "ms"),
            Figure(f"resident_{num_records}", found.resident_mebibytes, "MiB"),
            Figure(f"scan_{num_records}", found.scanned_per_second, "records/s"),
            Figure(f"index_{num_records}", index_mebibytes, "MiB"),
            Figure(f"indexing_{num_records}", made.index_seconds, "s"),
            Figure(f"writing_{num_records}", made.parts_seconds, "s"),
        ]
        rows.append(
            [
                f"{num_records:,} x {dimension}",
                f"{found.open_milliseconds:.0f} ms",
                *(f"{p50:,.0f} ({p99:,.0f}) us" for p50, p99 in pairs.values()),
                f"{found.resident_mebibytes:.0f} MiB",
                f"{found.scanned_per_second:,.0f} /s",
                f"{index_mebibytes:.0f} MiB, {made.index_seconds:.1f} s after {made.parts_seconds:.1f} s",
            ]
        )
    headings = ["records", "open", "cold", "warm", "read before", "read_table, filter", "resident", "all", "index"]
    note = "By id, at the median and in brackets at the 99th of a hundred; index: its size, and the time to make it."
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
