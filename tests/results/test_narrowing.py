"""A narrower type of numbers refuses what it cannot hold, by the record's name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import hpc_embed
from hpc_embed.cli import main
from hpc_embed.config import GatherSettings, PlanSettings
from hpc_embed.errors import BadInput
from hpc_embed.planning.planner import make_plan
from hpc_embed.results.gather import gather
from hpc_embed.results.narrowing import DoesNotHold, narrowed
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan
from hpc_embed.run.vectors import VectorFile, Vectors
from tests.results.embedding import embed
from tests.results.test_gather import rewrite

FASTA = b">first\nMKV\n>empty\n>second\nWYVT\n>third\nGGG\n"


@pytest.mark.parametrize("number", [65504.0, -65504.0, 65519.0, 6e-8])
def test_what_a_type_holds_is_rounded(number: float) -> None:
    rounded = narrowed(np.array([[number, 0], [0, 0]], np.float32), "float16")
    assert rounded.dtype == np.float16
    assert rounded.tolist() == [[float(np.float16(number)), 0], [0, 0]]
    assert rounded[0, 0] != 0


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ([1, 65520, 9], "its number 65,520 does not fit float16, which ends at 65,504"),
        ([1, -70123, 1e9], "its number -70,123 does not fit float16, which ends at 65,504"),
        ([np.nan, 1, 1], "its number nan does not fit float16, which ends at 65,504"),
        ([0, 2e-8, -1e-8], "its largest number is 2e-08, and float16 makes all of them 0"),
    ],
)
def test_the_first_vector_that_a_type_does_not_hold_is_told(row: list[float], problem: str) -> None:
    vectors_RD = np.array([[1, 2, 3], [0, 0, 0], row, [1e9, 1e9, 1e9]], np.float32)
    with pytest.raises(DoesNotHold) as caught:
        narrowed(vectors_RD, "float16")
    assert (str(caught.value), caught.value.row) == (problem, 2)


def test_a_type_that_is_wide_enough_is_the_same_numbers() -> None:
    vectors_RD = np.array([[1e9, np.inf]], np.float32)
    assert narrowed(vectors_RD, "float32") is vectors_RD
    assert narrowed(np.array([[0.5, 65_504]], np.float16), "float32").tolist() == [[0.5, 65_504]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """A run in whose outputs the window of `third` has a number of 70,123."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "in.fa").write_bytes(FASTA)
    layout = RunLayout(folder / "run")
    settings = PlanSettings(fasta=(str(folder / "in.fa"),), model="aa_composition", num_shards=1, force_kind=True)
    plan = make_plan(settings, layout).plan
    embed(plan, layout)
    (rows,) = VectorFile(layout.output(0))
    glycines = int(np.argmax(rows.vectors_ND[:, 5]))  # G, of ACDEFGHIKLMNPQRSTVWY

    def enlarge(rows: Vectors) -> Vectors:
        vectors_ND = rows.vectors_ND.copy()
        vectors_ND[glycines, 3] = 70_123
        return rows._replace(vectors_ND=vectors_ND)

    rewrite(layout, 0, enlarge)
    return plan, layout.root


@pytest.fixture
def run(made: tuple[Plan, Path], tmp_path: Path) -> tuple[Plan, RunLayout]:
    shutil.copytree(made[1], tmp_path / "run")
    return made[0], RunLayout(tmp_path / "run")


def test_gather_names_the_record_and_the_number_and_leaves_the_dataset_that_was_there(
    run: tuple[Plan, RunLayout],
) -> None:
    plan, layout = run
    gather(plan, layout, GatherSettings())
    before = {path: path.read_bytes() for path in layout.root.rglob("*") if path.is_file()}
    with pytest.raises(BadInput) as caught:
        gather(plan, layout, GatherSettings(dtype="float16"))
    assert str(caught.value) == (
        "record third (ordinal 3), embedding: its number 70,123 does not fit float16, which ends at 65,504. "
        "Gather with --dtype float32."
    )
    assert {path: path.read_bytes() for path in layout.root.rglob("*") if path.is_file()} == before
    assert not gather(plan, layout, GatherSettings()).is_new
    assert hpc_embed.open_dataset(layout.root)["third"][0].vector[3] == 70_123  # type: ignore[index]


def test_the_command_ends_with_3_and_one_line(run: tuple[Plan, RunLayout], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gather", "--run-dir", str(run[1].root), "--dtype", "float16"]) == 3
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "record third" in line]
    assert "65,504" in line
    assert not run[1].dataset.exists()


def test_the_other_records_are_written_where_the_type_holds_them(run: tuple[Plan, RunLayout]) -> None:
    plan, layout = run
    rewrite(layout, 0, lambda rows: rows._replace(vectors_ND=np.minimum(rows.vectors_ND, 65_504)))
    gather(plan, layout, GatherSettings(dtype="float16"))
    cells = pq.read_table(layout.dataset)["embedding"].to_pylist()
    assert cells[1] is None
    assert cells[3][3] == 65_504
