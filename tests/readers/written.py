"""One of every Parquet file that we write, with what is in it, for readers of other ages and languages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hpc_embed.config import GatherSettings, PlanSettings
from hpc_embed.planning.planner import make_plan
from hpc_embed.results.gather import gather
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.pieces import Pieces
from hpc_embed.run.vectors import VectorFile
from tests.reading.datasets import write_dataset
from tests.results.embedding import embed

FASTA = b">a\nMKVLAAGIVG\n>b\nMKVLAAGIVG\n>empty\n>a\nMKV\n>long\nMKVLAAGIVGLLLAGCSWMKTAYIAKQRQ\n"
SHORTER = FASTA.replace(b">empty\n", b"")
DATASETS = ("float16", "several columns", "per token", "per window")


def write_every_kind(folder: Path) -> dict[str, Path]:
    """By what it is; the first has a record without a vector, and the second has none."""
    layout = _run(folder / "absent", FASTA)
    pieces = Pieces(layout.work / "shard-00000", "f")
    for rows in VectorFile(layout.output(0)):
        pieces.publish(rows)
    found = {
        "dataset": layout.dataset / "part-00000.parquet",
        "no absent": _run(folder / "whole", SHORTER).dataset / "part-00000.parquet",
        "of shards": _run(folder / "left", FASTA, layout="shards").dataset / "part-00000.parquet",
        "output": layout.output(0),
        "piece": next((layout.work / "shard-00000").iterdir()),
        "shard": layout.shard(0),
        "records": layout.records,
        "table": layout.root / "shards.parquet",
    }
    for form in DATASETS:
        found[form] = write_dataset(folder / form, form, num_rows=40).dataset / "part-00000.parquet"
    return found


def _run(folder: Path, fasta: bytes, **how: Any) -> RunLayout:
    folder.mkdir(parents=True)
    (folder / "in.fa").write_bytes(fasta)
    layout = RunLayout(folder / "run")
    settings = PlanSettings(
        fasta=(str(folder / "in.fa"),), model="aa_composition", num_shards=2, max_residues=20, force_kind=True
    )
    plan = make_plan(settings, layout).plan
    embed(plan, layout)
    gather(plan, layout, GatherSettings(**how))
    return layout


def plain(value: Any) -> Any:
    """As JSON has it: bytes as text, an array as a list, every number without its type."""
    if isinstance(value, bytes | bytearray):
        return value.decode("latin-1")
    if isinstance(value, list | tuple) or hasattr(value, "tolist"):
        return [plain(each) for each in (value if isinstance(value, list | tuple) else value.tolist())]
    return value


def write_for_readers(folder: Path) -> dict[str, Path]:
    """Every kind, and `files.json` with the paths and `expected.json` with the columns by kind."""
    shutil.rmtree(folder, ignore_errors=True)
    found = write_every_kind(folder)
    expected = {
        kind: {name: plain(values) for name, values in pq.read_table(path).to_pydict().items()}
        for kind, path in found.items()
    }
    (folder / "files.json").write_text(json.dumps({kind: str(path.resolve()) for kind, path in found.items()}))
    (folder / "expected.json").write_text(json.dumps(expected))
    return found
