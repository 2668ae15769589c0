"""A run that is embedded already: a real plan of short proteins, and drawn numbers in the place of vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from hpc_embed.config import PlanSettings
from hpc_embed.planning.planner import make_plan
from hpc_embed.run.files import make_folders, write_draft
from hpc_embed.run.layout import RunLayout, shard_folders, shard_name
from hpc_embed.run.markers import WorkFacts, publish_output
from hpc_embed.run.plan import Plan
from hpc_embed.run.shards import read_shard
from hpc_embed.run.vectors import Vectors, VectorWriter

RESIDUES = 25
RECORDS_AT_ONCE = 1 << 16
FACTS = WorkFacts(
    device="none", precision="fp32", versions={}, process="drawn", seconds=0.0, num_tokens=0, num_windows_computed=0,
    tokens_per_second=0.0, padding_efficiency=1.0, token_budget=0, peak_memory_bytes=0,
)  # fmt: skip


def record_id(number: int) -> str:
    """As UniRef's."""
    return f"UniRef50_A{number:09d}"


def filled_run(folder: Path, num_records: int, dimension: int, num_shards: int) -> tuple[Plan, RunLayout]:
    """Each record has a sequence, and a vector, of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    fasta, layout = folder / "in.fasta", RunLayout(folder / "run")
    _write_fasta(fasta, num_records)
    settings = PlanSettings(fasta=(str(fasta),), model="aa_composition", num_shards=num_shards)
    plan = replace(make_plan(settings, layout).plan, dimension=dimension)
    plan.write(layout.plan)
    for path in shard_folders(layout.outputs, num_shards):
        make_folders(path)
    draw = np.random.default_rng(2)
    for index in range(len(plan.shards)):
        _fill_shard(plan, layout, index, draw)
    return plan, layout


def _write_fasta(path: Path, num_records: int) -> None:
    draw = np.random.default_rng(1)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype=np.uint8)
    with path.open("wb") as file:
        for start in range(0, num_records, RECORDS_AT_ONCE):
            numbers = range(start, min(start + RECORDS_AT_ONCE, num_records))
            residues = letters[draw.integers(0, 20, (len(numbers), RESIDUES))]
            rows = zip(numbers, residues, strict=True)
            file.writelines(b">%b\n%b\n" % (record_id(number).encode(), row.tobytes()) for number, row in rows)


def _fill_shard(plan: Plan, layout: RunLayout, index: int, draw: np.random.Generator) -> None:
    keys_W = read_shard(layout.shard(index)).windows_N
    vectors_WD = draw.standard_normal((len(keys_W), plan.dimension), dtype=np.float32)
    rows = Vectors(keys_W, np.full(len(keys_W), RESIDUES, dtype=np.int32), vectors_WD)

    def write(file):  # type: ignore[no-untyped-def]
        with VectorWriter(file, plan.dimension, {"fingerprint": plan.fingerprint}) as writer:
            writer.write(rows)

    draft = write_draft(layout.output(index), write)
    publish_output(layout.outputs, shard_name(index), draft, plan.fingerprint, keys_W.tolist(), {}, FACTS)
