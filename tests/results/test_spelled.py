"""Datasets of vectors that spell their windows, so that every cell can be foretold: per letter, pooled, per window."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from queue import Queue
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest

from hpc_embed.config import GatherSettings, PlanSettings
from hpc_embed.model import AMINO_ACIDS
from hpc_embed.planning.planner import make_plan
from hpc_embed.reading.dataset import open_dataset
from hpc_embed.results.gather import gather
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan
from hpc_embed.workers.base import EmbeddedBatch, Tokens
from hpc_embed.workers.loop import Loop
from tests.workers.test_loop import FakeModel

LETTERS = {
    "a": "MKVLAAGIVG", "b": "MKVLAAGIVG", "empty": "", "c": "MKV", "long": "MKVLAAGIVGLLLAGCSWMKTAYIAKQRQ", "last": "W",
}  # fmt: skip
ALONE = "MKTAYIAKQRQ"
"""A record whose window fails."""
DIMENSION, WINDOW = 320, 20


def spelled(letters: str) -> np.ndarray[Any, Any]:
    """[n, D]: each letter's code, place, and how many there are."""
    rows_ND = np.zeros((len(letters), DIMENSION), dtype=np.float32)
    rows_ND[:, 0], rows_ND[:, 1], rows_ND[:, 2] = list(letters.encode()), range(len(letters)), len(letters)
    return rows_ND


class Speller(FakeModel):
    """Spells each window, once per letter and once for each pooling that is asked for."""

    dimension = DIMENSION

    def __init__(self, poolings: Sequence[str]) -> None:
        super().__init__()
        self.poolings = poolings

    def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
        made, rows = super().start(batch)(), []
        for tokens in batch:
            letters = bytes(tokens).decode()
            each = spelled(letters)
            per_letter = [each] if "per_token" in self.poolings else []
            pooled = [POOL[name](each)[None] for name in self.poolings if name in POOL]
            window = np.concatenate([*per_letter, *pooled])
            rows.append(np.full_like(window, np.nan) if letters == ALONE else window)
        return lambda: made._replace(vectors_BD=np.concatenate(rows).astype(np.float32))


POOL: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "mean": lambda rows_ND: rows_ND.mean(axis=0),
    "max": lambda rows_ND: rows_ND.max(axis=0),
}


def windows_of(letters: str) -> list[str]:
    """Of equal lengths, but for a residue."""
    number = -(-len(letters) // WINDOW)
    edges = [len(letters) * at // number for at in range(number + 1)] if number else []
    return [letters[start:stop] for start, stop in pairwise(edges)]


def spelled_run(folder: Path, pooling: str) -> tuple[Plan, RunLayout]:
    """A run of three shards, embedded by the speller and not gathered."""
    records = {**LETTERS, "fails": ALONE}
    (folder / "in.fa").write_text("".join(f">{name}\n{letters}\n" for name, letters in records.items()))
    layout = RunLayout(folder / "run")
    settings = PlanSettings(
        fasta=(str(folder / "in.fa"),), model="esm2_t6_8M:untrained", pooling=pooling, num_shards=3,
        max_residues=WINDOW, force_kind=True,
    )  # fmt: skip
    plan = make_plan(settings, layout).plan
    layout.outputs.mkdir(exist_ok=True)
    layout.work.mkdir(exist_ok=True)
    with ThreadPoolExecutor(1) as writer:
        loop = Loop(
            model=Speller(pooling.split(",")),
            token_budget=30,
            outputs=layout.outputs,
            work=layout.work,
            fingerprint=plan.fingerprint,
            piece_seconds=0.0,
            events=Queue(),
            should_stop=lambda: False,
            writer=writer,
        )
        assert not loop.embed_shards([layout.shard(index) for index in range(3)]).failed
    return plan, layout


POOLINGS = ["per_token", "mean", "per_token,mean", "per_token,max", "mean,per_window"]


@pytest.fixture(params=POOLINGS, ids=lambda pooling: pooling.replace("_", " "))
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, RunLayout]:
    """The dataset will be of row groups of two rows, and its index of two entries at a time."""
    monkeypatch.setattr("hpc_embed.results.parts.ROW_GROUP_ROWS", 2)
    monkeypatch.setattr("hpc_embed.results.index.ENTRIES_IN_MEMORY", 2)
    return spelled_run(tmp_path, request.param)


def foretold(plan: Plan) -> list[dict[str, Any]]:
    """The rows of the dataset, as the words of docs/vectors.md have them."""
    rows: list[dict[str, Any]] = []
    outputs = plan.embedding.outputs
    for ordinal, (name, letters) in enumerate({**LETTERS, "fails": ALONE}.items()):
        windows = windows_of(letters)
        spans = [windows] if not outputs.is_per_window or not windows else [[window] for window in windows]
        start = 0
        for span in spans:
            row: dict[str, Any] = {"ordinal": ordinal, "id": name, "length": len(letters), "num_windows": len(windows)}
            row["num_unknown"] = sum(letter not in AMINO_ACIDS for letter in letters)
            is_there = bool(span) and letters != ALONE
            row["num_tokens"] = sum(map(len, span)) if is_there else 0
            of_letters = "windowed" if windows[1:] else "embedded" if windows else "skipped"
            row["status"] = "failed" if letters == ALONE else of_letters
            why = {
                "windowed": "29 residues, the limit is 20",
                "skipped": "empty",
                "failed": "the model gave NaN or infinity",
            }
            row["reason"] = why.get(row["status"], "")
            if outputs.is_per_window:
                has_none = not span
                row["start"], row["stop"] = (None, None) if has_none else (start, start + len(span[0]))
                start += 0 if has_none else len(span[0])
            for output in outputs.columns:
                each = [spelled(window) for window in span]
                if not is_there:
                    row[output.name] = None
                elif output.row is None:
                    row[output.name] = np.concatenate(each)
                elif output.pooling == "max":
                    row[output.name] = np.max([rows_ND.max(axis=0) for rows_ND in each], axis=0)
                else:
                    row[output.name] = np.concatenate(each).mean(axis=0, dtype=np.float64).astype(np.float32)
            rows.append(row)
    return rows


def same(found: object, expected: object, tolerance: float) -> bool:
    if expected is None or isinstance(expected, int | str):
        return found == expected
    return bool(np.allclose(np.array(found, dtype=np.float64), np.asarray(expected), rtol=tolerance, atol=0))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_cell_is_what_the_windows_spell(
    dtype: Literal["float32", "float16"], run: tuple[Plan, RunLayout]
) -> None:
    plan, layout = run
    gathered = gather(plan, layout, GatherSettings(wait_seconds=0, dtype=dtype))
    table, expected = pq.read_table(layout.dataset), foretold(plan)
    assert table.num_rows == len(expected)
    for name in table.schema.names:
        cells = table[name].to_pylist()
        theirs = [row[name] for row in expected]
        assert all(same(*pair, 1e-3 if dtype == "float16" else 1e-6) for pair in zip(cells, theirs, strict=True)), name
    assert {*table.schema.names} == {*expected[0]}
    assert gathered.statuses == {"embedded": 4, "failed": 1, "skipped": 1, "windowed": 1}
    assert json.loads(layout.dataset_facts.read_text())["num_records"] == 7


@pytest.mark.parametrize("form", ["parts", "shards"])
def test_who_reads_the_dataset_finds_the_same(form: Literal["parts", "shards"], run: tuple[Plan, RunLayout]) -> None:
    plan, layout = run
    gather(plan, layout, GatherSettings(wait_seconds=0, layout=form))
    dataset, expected = open_dataset(layout.root), foretold(plan)
    assert len(dataset) == len(expected)
    assert [*dataset.ids] == [row["id"] for row in expected]
    for record, row in zip(dataset, expected, strict=True):
        for name in {*row} - {*record.columns, "num_unknown"}:  # which the index does not hold
            assert getattr(record, name) == row[name], name
        for name, vectors in record.columns.items():
            assert same(vectors, row[name], 1e-6), (record.id, name)
    for name in LETTERS:
        assert [each.ordinal for each in dataset[name]] == [row["ordinal"] for row in expected if row["id"] == name]
    assert "nobody" not in dataset


def test_fewer_records_than_the_plan_has_are_never_published(run: tuple[Plan, RunLayout]) -> None:
    plan, layout = run
    gather(plan, layout, GatherSettings(wait_seconds=0))
    more = replace(plan, totals=replace(plan.totals, num_embedded=plan.totals.num_embedded + 1))
    layout.dataset_facts.unlink()
    with pytest.raises(AssertionError, match="records were lost"):
        gather(more, layout, GatherSettings(wait_seconds=0))
