"""A dataset that leaves its vectors in the outputs, beside the one that has them copied: every reader sees the same."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import hpc_embed
from hpc_embed.cli import main
from hpc_embed.config import GatherSettings, PlanSettings
from hpc_embed.errors import RunConflict, UsageError
from hpc_embed.planning.planner import make_plan
from hpc_embed.reading.dataset import Dataset
from hpc_embed.reading.export import export
from hpc_embed.results.checking import check
from hpc_embed.results.gather import gather
from hpc_embed.run.files import write_json
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import read_marker
from hpc_embed.run.plan import read_plan
from hpc_embed.run.vectors import VectorFile, Vectors
from hpc_embed.workers.registry import make_worker
from tests.conftest import REPOSITORY
from tests.results.test_gather import rewrite

FASTA = (
    b">a\nMKVLAAGIVG\n>b/1\nMKVLAAGIVG\n>empty\n>a\nMKV\n>long\nMKVLAAGIVGLLLAGCSWMKTAYIAKQRQ\n"
    b">longer\nMKVLAAGIVGLLLAGCSWMKWYVTLLAGQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEK\n>last\nWYVT\n"
)
FORMS: dict[str, tuple[str, int | tuple[int, ...]]] = {
    "pooled": ("mean", 6),
    "several": ("mean_with_special,max,cls", (6, 0)),
    "per token and pooled": ("per_token,mean", (6, 0)),
    "per window": ("mean,per_window", 6),
}


class Both:
    """The same run gathered in both layouts."""

    def __init__(self, folder: Path, form: str) -> None:
        (folder / "in.fa").write_bytes(FASTA)
        pooling, layer = FORMS[form]
        self.copied, self.left = (RunLayout(folder / name) for name in ("copied", "left"))
        settings = PlanSettings(
            fasta=(str(folder / "in.fa"),), model="esm2_t6_8M:untrained", num_shards=3, max_residues=20,
            force_kind=True, pooling=pooling, layer=layer if isinstance(layer, int) else ",".join(map(str, layer)),
        )  # fmt: skip
        plan = make_plan(settings, self.copied).plan
        shards = [self.copied.shard(index) for index in range(3)]
        worker = make_worker(plan.model, plan.embedding)
        done = worker.process_files_worker(
            shards, "cpu", 64, self.copied.outputs, fingerprint=plan.fingerprint, work_dir=self.copied.work
        )
        assert not done.failed
        self._fail_one()
        shutil.copytree(self.copied.root, self.left.root)
        gather(plan, self.copied, GatherSettings())
        gather(plan, self.left, GatherSettings(layout="shards"))

    def _fail_one(self) -> None:
        """The window of the last record has no vector."""
        key = max(max(keys, default=0) for keys in pq.read_table(self.copied.records)["windows"].to_pylist())

        def without(rows: Vectors) -> Vectors:
            return Vectors(*(column[rows.windows_N != key] for column in rows))

        (index,) = (index for index in range(3) if key in VectorFile(self.copied.output(index)).windows())
        rewrite(self.copied, index, without)
        marker = read_marker(self.copied.outputs, f"shard-{index:05d}")
        assert marker is not None
        write_json(self.copied.marker(index), asdict(replace(marker, failed_windows={str(key): "out of memory"})))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Both]:
    return cache(lambda form: Both(tmp_path_factory.mktemp("both"), form))


@pytest.fixture(scope="module", params=FORMS)
def both(request: pytest.FixtureRequest, made: Callable[[str], Both]) -> Both:
    return made(request.param)


@pytest.fixture
def left(made: Callable[[str], Both], tmp_path: Path) -> RunLayout:
    shutil.copytree(made("pooled").left.root, tmp_path / "run")
    return RunLayout(tmp_path / "run")


def opened(both: Both) -> Iterator[Dataset]:
    return (hpc_embed.open_dataset(layout.root) for layout in (both.copied, both.left))


def test_every_row_is_the_same_number_for_number(both: Both) -> None:
    copied, left = opened(both)
    assert len(copied) == len(left)
    assert left.num_vectors == copied.num_vectors < len(left)
    for ours, theirs in zip(left, copied, strict=True):
        assert ours._replace(columns={}) == theirs._replace(columns={})
        assert list(ours.columns) == list(theirs.columns)
        for name, vector in theirs.columns.items():
            np.testing.assert_array_equal(ours.columns[name], vector)
    assert {record.status for record in left} >= {"skipped", "failed", "embedded"}


def test_batches_ids_and_all_at_once_are_the_same(both: Both) -> None:
    copied, left = opened(both)
    for ours, theirs in zip(left.batches(3), copied.batches(3), strict=True):
        assert (ours.ids_N, ours.statuses_N) == (theirs.ids_N, theirs.statuses_N)
        assert ours.has_vector_N.tolist() == theirs.has_vector_N.tolist()
        for name, vectors in theirs.columns.items():
            np.testing.assert_array_equal(ours.columns[name], vectors)
    for name in copied.columns:
        np.testing.assert_array_equal(left.vectors(name), copied.vectors(name))
    assert [record.ordinal for record in left["a"]] == [record.ordinal for record in copied["a"]]
    assert "b/1" in left
    assert left.by_ordinal(5)[0].id == "longer"


def test_exports_are_the_same_bytes(both: Both, tmp_path: Path) -> None:
    column = next(iter(hpc_embed.open_dataset(both.left.root).columns))
    for name, layout in (("copied", both.copied), ("left", both.left)):
        export(layout.root, "npy", tmp_path / name, "dataset", column)
    for file in ("vectors.npy", "ids.tsv"):
        assert (tmp_path / "left" / file).read_bytes() == (tmp_path / "copied" / file).read_bytes()


def test_nothing_is_copied_and_other_tools_join_the_outputs_to_the_records(left: RunLayout) -> None:
    import duckdb

    table = pq.read_table(left.dataset)
    assert not [name for name in table.column_names if name.startswith("embedding")]
    (shown,) = re.findall(r"```sql\n(.*?)```", (REPOSITORY / "docs/dataset.md").read_text(), flags=re.S)
    found = duckdb.sql(shown.replace("embed-run", str(left.root))).fetchall()
    dataset = hpc_embed.open_dataset(left.root)
    assert sorted(name for name, _ in found) == ["a", "a", "b/1"]
    for name, vector in found:
        assert any(np.array_equal(np.float32(vector), record.vector) for record in dataset[name])  # type: ignore[arg-type]


def test_a_report_and_a_proof_are_made_of_it(left: RunLayout, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gather", "--run-dir", str(left.root), "--check"]) == 0
    assert main(["report", "--run-dir", str(left.root)]) == 0
    assert main(["gather", "--run-dir", str(left.root), "--layout", "shards"]) == 6  # a record has failed
    told = capsys.readouterr().out
    assert "was there already" in told
    assert f"vectors stay in {left.outputs}" in told


def test_a_damaged_or_another_output_is_named(left: RunLayout) -> None:
    content = bytearray(left.output(1).read_bytes())
    content[len(content) // 2] ^= 1
    left.output(1).write_bytes(content)
    with pytest.raises(RunConflict, match=r"shard-00001\.parquet is damaged \(the checksum differs\)"):
        check(left)
    left.output(1).write_bytes(content[:-1])
    dataset = hpc_embed.open_dataset(left.root)
    with pytest.raises(RunConflict, match=r"shard-00001\.parquet is not what was gathered"):
        dataset.vectors()
    left.output(1).unlink()
    with pytest.raises(RunConflict, match=r"shard-00001\.parquet is missing"):
        check(left)


def test_outputs_that_were_made_anew_are_told(left: RunLayout) -> None:
    rewrite(left, 0, lambda rows: rows._replace(vectors_ND=rows.vectors_ND + 1))
    with pytest.raises(RunConflict, match="outputs are not those that were gathered"):
        check(left)


def test_a_lost_index_is_made_by_gathering_again(left: RunLayout) -> None:
    left.dataset_index.unlink()
    with pytest.raises(RunConflict, match="its vectors are in the outputs"):
        hpc_embed.open_dataset(left.root)
    assert gather(read_plan(left.plan), left, GatherSettings(layout="shards")).is_new
    assert len(hpc_embed.open_dataset(left.root)) == 7


def test_the_other_layout_is_made_anew_and_float16_is_refused(left: RunLayout) -> None:
    plan = read_plan(left.plan)
    with pytest.raises(UsageError, match="leaves the vectors as they are"):
        gather(plan, left, GatherSettings(layout="shards", dtype="float16"))
    assert gather(plan, left, GatherSettings()).is_new
    assert "embedding" in pq.read_schema(left.dataset / "part-00000.parquet").names
    assert not gather(plan, left, GatherSettings()).is_new
