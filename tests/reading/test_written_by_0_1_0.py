"""What version 0.1.0 wrote, with pyarrow's schema in its files, is read for ever after.

The archive was made by that version: datasets of each form with what pandas read of them, and two whole runs.
"""

from __future__ import annotations

import shutil
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import hpc_embed
from hpc_embed.config import GatherSettings
from hpc_embed.results.checking import check
from hpc_embed.results.gather import gather
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.pieces import in_key_order
from hpc_embed.run.plan import read_plan
from hpc_embed.run.shard_table import ShardFacts, ShardTable
from hpc_embed.run.shards import read_shard
from hpc_embed.run.vectors import VectorFile

FORMS = ("pooled", "per_token_and_pooled", "per_window", "run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("written")
    with tarfile.open(Path(__file__).with_name("written_by_0_1_0.tar.xz")) as archive:
        archive.extractall(target, filter="data")
    return target


@pytest.mark.parametrize("is_indexed", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_a_dataset_gives_what_pandas_read_of_it_then(form: str, is_indexed: bool, folder: Path, tmp_path: Path) -> None:
    layout = RunLayout(shutil.copytree(folder / form, tmp_path / form))
    expected = np.load(layout.root / "expected.npz")
    assert b"ARROW:schema" in pq.read_metadata(layout.dataset / "part-00000.parquet").metadata
    if not is_indexed:
        layout.dataset_index.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error" if is_indexed else "ignore")
        dataset = hpc_embed.open_dataset(layout.root)
    assert [*dataset.ids] == expected["ids"].tolist()
    assert [row.status for row in dataset] == expected["statuses"].tolist()
    assert [*dataset.columns] == [name for name in expected.files if name.startswith("embedding")]
    for name in dataset.columns:
        assert dataset.vectors(name).dtype == expected[name].dtype
        assert np.array_equal(dataset.vectors(name), expected[name])
        rows = [0 if (cell := row.columns[name]) is None else len(np.atleast_2d(cell)) for row in dataset]
        assert rows == expected[f"rows of {name}"].tolist()


def test_a_dataset_that_left_its_vectors_in_the_outputs_reads_those(folder: Path) -> None:
    expected = np.load(folder / "run/expected.npz")
    dataset = hpc_embed.open_dataset(folder / "left")
    assert np.array_equal(dataset.vectors(), expected["embedding"])
    assert [row.vector is None for row in dataset] == [False, False, True, False, False]
    assert check(RunLayout(folder / "left")).num_records == 5


def test_a_run_is_gathered_anew_from_the_outputs_of_then(folder: Path, tmp_path: Path) -> None:
    layout = RunLayout(shutil.copytree(folder / "run", tmp_path / "run"))
    made = gather(read_plan(layout.plan), layout, GatherSettings(dtype="float16"))
    assert (made.is_new, made.statuses) == (True, {"embedded": 3, "skipped": 1, "windowed": 1})
    assert b"ARROW:schema" not in pq.read_metadata(layout.dataset / "part-00000.parquet").metadata
    then = np.load(folder / "run/expected.npz")["embedding"]
    assert np.array_equal(hpc_embed.open_dataset(layout.root).vectors(), then.astype(np.float16))


def test_outputs_pieces_shards_and_their_table_are_read(folder: Path) -> None:
    layout = RunLayout(folder / "run")
    outputs = [VectorFile(layout.output(index)) for index in range(3)]
    assert {output.dimension for output in outputs} == {420}
    assert sorted(key for output in outputs for key in output.windows().tolist()) == [0, 1, 2, 3]
    (piece,) = (layout.work / "shard-00000").iterdir()
    (rows,) = in_key_order([VectorFile(piece)])
    (same,) = outputs[0]
    assert np.array_equal(rows.vectors_ND, same.vectors_ND)
    assert VectorFile(piece).metadata["fingerprint"] == outputs[0].metadata["fingerprint"]
    shards = [read_shard(layout.shard(index)) for index in range(3)]
    sequences = dict(pair for shard in shards for pair in zip(shard.windows_N.tolist(), shard.sequences_N, strict=True))
    assert sorted(sequences) == [0, 1, 2, 3]
    assert sequences[0] == b"MKVLAAGIVG"
    assert ShardTable(folder / "run/shards.parquet", 3)[0] == ShardFacts(
        num_windows=1, num_residues=15, num_tokens=15, flops=60
    )
