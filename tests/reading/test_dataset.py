"""A dataset read back is what pandas reads: every form of it, by id, by ordinal, in batches."""

from __future__ import annotations

import gc
import json
import pickle
import random
import subprocess
import sys
import tracemalloc
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hpc_embed
from hpc_embed.cli import main
from hpc_embed.errors import EnvironmentFault, RunConflict, UnknownRecord, UsageError
from hpc_embed.reading import index as index_module
from hpc_embed.reading import vectors as vectors_module
from hpc_embed.reading.dataset import Dataset, Record
from hpc_embed.reading.index import Index
from hpc_embed.results import index as writing
from hpc_embed.run import faults
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.vectors import Damaged
from hpc_embed.sequences import kernel
from tests.reading.datasets import DIMENSION, FORMS, NUM_ROWS, ODD_IDS, as_pandas, tell_new_digests, write_dataset
from tests.test_outputs import dataset as gathered

FACTS = ("ordinal", "id", "length", "num_tokens", "num_windows", "status", "reason")


@pytest.fixture(scope="module", params=FORMS)
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    return write_dataset(tmp_path_factory.mktemp("run"), request.param)


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    return write_dataset(tmp_path_factory.mktemp("run"))


def is_row(record: Record, expected: Any) -> bool:
    """Whether a record has what the row of the oracle has, bit for bit."""
    if any(getattr(record, name) != expected[name] for name in FACTS):
        return False
    for name, vectors in record.columns.items():
        if (vectors is None) != (expected[name] is None):
            return False
        if vectors is not None and not np.array_equal(vectors, np.stack([*expected[name]])):
            return False
    edges = (record.start, record.stop)
    theirs = (expected.get("start"), expected.get("stop"))
    return edges == tuple(None if edge is None or np.isnan(edge) else edge for edge in theirs)


def same_rows(dataset: Dataset, layout: RunLayout) -> bool:
    rows = [row for _, row in as_pandas(layout).iterrows()]
    return len(rows) == len(dataset) and all(map(is_row, dataset, rows))


def test_every_row_is_what_pandas_reads(layout: RunLayout) -> None:
    dataset = hpc_embed.open_dataset(layout.root)
    assert same_rows(dataset, layout)
    assert [*dataset.ids] == as_pandas(layout)["id"].tolist()
    assert (dataset._index.places_GC >= 0).all(), "gather writes what can be read at its place"


def test_an_id_gives_all_of_its_rows_in_order(layout: RunLayout) -> None:
    dataset, rows_of = hpc_embed.open_dataset(str(layout.dataset)), defaultdict(list)
    for _, row in as_pandas(layout).iterrows():
        rows_of[row["id"]].append(row)
    assert {*ODD_IDS} <= {*rows_of}
    for name, rows in rows_of.items():
        assert name in dataset
        assert len(dataset[name]) == len(rows)
        assert all(map(is_row, dataset[name], rows))
    assert max(map(len, rows_of.values())) >= 4


def test_an_ordinal_gives_its_row_or_its_windows(layout: RunLayout) -> None:
    dataset, oracle = hpc_embed.open_dataset(layout.root), as_pandas(layout)
    for ordinal in (0, 1, 2, 137, int(oracle["ordinal"].max())):
        rows = [row for _, row in oracle[oracle["ordinal"] == ordinal].iterrows()]
        found = dataset.by_ordinal(ordinal)
        assert len(found) == len(rows)
        assert all(map(is_row, found, rows))


@pytest.mark.parametrize("num_rows", [1, 33, 10_000])
def test_batches_have_the_vectors_of_those_that_have_one_side_by_side(layout: RunLayout, num_rows: int) -> None:
    dataset, oracle = hpc_embed.open_dataset(layout.root), as_pandas(layout)
    at = 0
    for batch in dataset.batches(num_rows):
        rows = oracle.iloc[at : at + num_rows]
        at += len(rows)
        assert batch.ids_N == rows["id"].tolist()
        assert batch.statuses_N == rows["status"].tolist()
        for name, theirs in (("ordinals_N", "ordinal"), ("lengths_N", "length"), ("num_tokens_N", "num_tokens")):
            assert getattr(batch, name).tolist() == rows[theirs].tolist()
        for name, vectors_RD in batch.columns.items():
            assert batch.has_vector_N.tolist() == rows[name].notna().tolist()
            expected = [np.stack([*cell]).reshape(-1, DIMENSION) for cell in rows[name].dropna()]
            assert vectors_RD.dtype == dataset.columns[name].dtype
            assert np.array_equal(vectors_RD, np.concatenate([np.empty((0, DIMENSION)), *expected]))
            assert not np.isnan(vectors_RD).any()
    assert at == len(oracle) == len(dataset)


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    dataset = hpc_embed.open_dataset(write_dataset(tmp_path, "several columns").root)
    assert [*next(dataset.batches(5, columns=["embedding_max_0"])).columns] == ["embedding_max_0"]
    with pytest.raises(UsageError, match=r"no column embedding\. Say embedding_mean_6, "):
        next(dataset.batches(columns=["embedding"]))
    with pytest.raises(UsageError, match=r"several columns .* by name"):
        dataset.row(0).vector  # noqa: B018


def test_what_is_not_there_is_a_key_error_that_names_the_place(pooled: RunLayout) -> None:
    dataset = hpc_embed.open_dataset(pooled.root)
    assert "repeated" not in dataset
    assert 7 not in dataset
    with pytest.raises(KeyError) as caught:
        dataset["repeated"]
    assert isinstance(caught.value, UnknownRecord)
    assert str(caught.value) == f"{pooled.dataset} has no id 'repeated'. `.ids` are all."
    for ordinal in (-1, 400):
        with pytest.raises(KeyError, match=f"no ordinal {ordinal}"):
            dataset.by_ordinal(ordinal)
        with pytest.raises(IndexError):
            dataset.row(ordinal)
    with pytest.raises(TypeError, match=r"say \.row\(7\)"):
        dataset[7]  # type: ignore[index]
    with pytest.raises(RunConflict, match="no run folder with a dataset"):
        hpc_embed.open_dataset(pooled.root.parent)


def test_ids_with_one_digest_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def few(ids: pa.StringArray) -> Any:
        digests_N = kernel.digests_of(ids)
        digests_N["high"] %= 3
        return digests_N

    whole = index_module.digest_of
    monkeypatch.setattr(writing, "digests_of", few)
    monkeypatch.setattr(index_module, "digest_of", lambda name: whole(name) % 3)
    layout = write_dataset(tmp_path)
    dataset, oracle = hpc_embed.open_dataset(layout.root), as_pandas(layout)
    for name in {*oracle["id"]}:
        assert [record.ordinal for record in dataset[name]] == oracle["ordinal"][oracle["id"] == name].tolist()
    assert "neither" not in dataset


def test_the_digest_of_an_id_is_that_of_the_kernel() -> None:
    digests_N = kernel.digests_of(pa.array(["left out", *ODD_IDS])[1:])
    assert [index_module.digest_of(name) for name in ODD_IDS] == digests_N["high"].tolist()


def test_numpy_opens_the_index_and_equal_datasets_have_equal_ones(tmp_path: Path) -> None:
    layout, other = write_dataset(tmp_path / "one"), write_dataset(tmp_path / "other")
    assert layout.dataset_index.read_bytes() == other.dataset_index.read_bytes()
    arrays = np.load(layout.dataset_index)
    digests_N = arrays["entries"]["digest"]
    assert (np.diff(digests_N.astype(object)) >= 0).all()
    assert arrays["buckets"][-1] == len(digests_N) == len(arrays["records"]) - 1 == 400
    assert arrays["parts"]["name"].tolist() == sorted(path.name for path in layout.dataset.iterdir())
    assert [path.name for path in layout.root.iterdir() if path.name.startswith(".")] == []


def test_an_index_made_out_of_core_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = write_dataset(tmp_path)
    expected = {**np.load(layout.dataset_index)}
    monkeypatch.setattr(writing, "ENTRIES_IN_MEMORY", 100)
    monkeypatch.setattr(writing, "MEMORY_BYTES", 100)
    writing.publish_index(layout)
    arrays = np.load(layout.dataset_index)
    assert arrays.files == [*expected]
    assert all(np.array_equal(arrays[name], expected[name]) for name in expected)


@pytest.mark.long
def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    layout = write_dataset(tmp_path, num_rows=20_000, group_rows=500)
    dataset, draw = hpc_embed.open_dataset(layout.root), random.Random(1)
    num_bytes = sum(path.stat().st_size for path in layout.dataset.iterdir())
    assert sum(1 for _ in dataset.batches(200)) == 100  # small parts are read whole once, to prove them
    tracemalloc.start()
    for _ in range(2000):
        dataset.row(draw.randrange(len(dataset)))
        assert dataset[draw.choice(ODD_IDS)]
    for batch in dataset.batches(200):
        assert batch.ids_N
    assert sum(1 for _ in dataset) == len(dataset)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < num_bytes // 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-30:] = bytes(30)
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "lost": Path.unlink,
    "cut short": cut,
    "damaged": flip,
    "another's": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_an_index_one_is_made_for_the_while_with_a_warning(damage: str, tmp_path: Path) -> None:
    layout = write_dataset(tmp_path, "per token and pooled")
    DAMAGES[damage](layout.dataset_index)
    with pytest.warns(UserWarning, match=r"index; one is made|index is (damaged|another's); one is made"):
        dataset = hpc_embed.open_dataset(layout.root)
    assert same_rows(dataset, layout)


def in_member(content: bytes, name: str, old: bytes, new: bytes) -> bytes:
    """With something else in a member of an index, at its first place there."""
    at = content.index(old, content.index(name.encode()))
    return content[:at] + new + content[at + len(old) :]


CHANGES = {
    "a type that is none": lambda content: in_member(content, "columns.npy", b"<\0\0\0f", b"\0\0\0\0f"),
    "a type that NumPy takes": lambda content: in_member(content, "columns.npy", b"<\0\0\0f", b">\0\0\0f"),
    "a bit": lambda content: in_member(content, "parts.npy", b"p\0\0\0a", b"p\0\0\0b"),
    "a header": lambda content: in_member(content, "groups.npy", b"'descr'", b"'"),
    "no length": lambda content: in_member(content, "entries.npy", b"'shape': (", b"'shape': ()"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_index_that_was_changed_is_no_index(change: str, tmp_path: Path) -> None:
    layout = write_dataset(tmp_path, "per token and pooled")
    Index(layout.dataset_index)
    layout.dataset_index.write_bytes(CHANGES[change](layout.dataset_index.read_bytes()))
    with pytest.raises(Damaged, match=r"index\.npz: \w+$"):
        Index(layout.dataset_index)


@pytest.mark.long
def test_the_parts_of_another_writer_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors_module, "MOST_DECODED_BYTES", 2000)
    monkeypatch.setattr(vectors_module, "MOST_OPEN_PARTS", 2)
    ways: list[dict[str, Any]] = [
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"use_dictionary": False, "compression": "none", "data_page_size": 100, "write_batch_size": 8},
        {"use_dictionary": False, "compression": "none", "use_byte_stream_split": ["embedding.list.element"]},
        {"use_dictionary": False, "compression": "none", "data_page_version": "2.0"},
    ]
    for number, way in enumerate(ways):
        layout = write_dataset(tmp_path / str(number))
        for path in layout.dataset.iterdir():
            pq.write_table(pq.read_table(path), path, row_group_size=70, **way)
        tell_new_digests(layout)
        layout.dataset_index.unlink()
        with pytest.warns(UserWarning, match="no index"):
            dataset = hpc_embed.open_dataset(layout.root)
        assert (dataset._index.places_GC < 0).all(), way
        assert same_rows(dataset, layout)
        decoded = sum(vectors.nbytes for vectors in dataset._vectors._decoded.values())
        assert decoded <= 2000
        assert len(dataset._vectors._parts) <= 2


def test_numbers_that_are_all_equal_prove_no_place(tmp_path: Path) -> None:
    layout = write_dataset(tmp_path)
    for path in layout.dataset.iterdir():
        table = pq.read_table(path)
        zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(len(table) * DIMENSION, np.float32)), DIMENSION)
        table = table.set_column(table.schema.names.index("embedding"), "embedding", zeros)
        tokens = pa.array(np.ones(len(table), np.int64))
        table = table.set_column(table.schema.names.index("num_tokens"), "num_tokens", tokens)
        pq.write_table(table, path, use_dictionary=False, compression="none", data_page_size=64, write_batch_size=8)
    tell_new_digests(layout)
    layout.dataset_index.unlink()
    with pytest.warns(UserWarning, match="no index"):
        dataset = hpc_embed.open_dataset(layout.root)
    assert (dataset._index.places_GC < 0).all()
    assert same_rows(dataset, layout)


def test_an_index_is_read_without_assertions_too(tmp_path: Path) -> None:
    layout = write_dataset(tmp_path)
    code = f"import hpc_embed; print(len(list(hpc_embed.open_dataset({str(layout.root)!r}))))"
    command = [sys.executable, "-O", "-W", "error", "-c", code]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) == NUM_ROWS


def test_what_is_damaged_is_told_in_a_line(tmp_path: Path) -> None:
    layout = write_dataset(tmp_path)
    layout.dataset_index.unlink()
    cut(layout.dataset / "part-00001.parquet")
    with pytest.warns(UserWarning), pytest.raises(RunConflict, match=r"damaged .*gather --check"):
        hpc_embed.open_dataset(layout.root)
    layout.dataset_facts.write_text("{")
    with pytest.raises(RunConflict, match=r"dataset\.json: damaged"):
        hpc_embed.open_dataset(layout.root)


def test_a_part_that_has_changed_since_is_refused(tmp_path: Path) -> None:
    layout = write_dataset(tmp_path)
    dataset = hpc_embed.open_dataset(layout.root)
    cut(layout.dataset / "part-00001.parquet")
    with pytest.raises(RunConflict, match=r"part-00001\.parquet is not what was gathered"):
        dataset.vectors()


def test_a_fault_of_the_storage_is_told_as_one(pooled: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object) -> int:
        raise OSError(5, "Input/output error")

    dataset = hpc_embed.open_dataset(pooled.root)
    monkeypatch.setattr(faults, "PAUSES_SECONDS", ())
    monkeypatch.setattr("os.preadv", fault)
    with pytest.raises(EnvironmentFault, match="Input/output error"):
        dataset.row(0)


def test_a_dataset_pickles_and_closes_its_files(pooled: RunLayout) -> None:
    dataset = pickle.loads(pickle.dumps(hpc_embed.open_dataset(pooled.root)))  # noqa: S301
    assert np.array_equal(dataset.vectors(), np.stack([*as_pandas(pooled)["embedding"].dropna()]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del dataset
        gc.collect()


def test_vectors_are_ones_own(pooled: RunLayout) -> None:
    dataset = hpc_embed.open_dataset(pooled.root)
    vector = dataset.row(dataset.row_of_vector(0)).vector
    assert vector is not None
    vector[:] = 0
    again = dataset.row(dataset.row_of_vector(0)).vector
    assert again is not None
    assert again.any()


@pytest.mark.long
def test_gather_makes_the_index_again_and_check_proves_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = gathered(tmp_path / "it", "aa_composition", "default", "-1")
    command = ["gather", "--run-dir", str(layout.root)]
    assert hpc_embed.open_dataset(layout.root)["long"][0].status == "windowed"
    before = layout.dataset_index.read_bytes()
    facts = json.loads(layout.dataset_facts.read_text())
    assert facts["index"]["num_bytes"] == len(before)
    assert main([*command, "--check"]) == 0
    flip(layout.dataset_index)
    assert main([*command, "--check"]) == 4
    layout.dataset_index.unlink()
    assert main([*command, "--check"]) == 4
    said = capsys.readouterr().err
    assert "dataset-index.npz is damaged (the checksum differs)" in said
    assert "dataset-index.npz is missing" in said
    assert main(command) == 0
    assert layout.dataset_index.read_bytes() == before
    cut(layout.dataset_index)
    assert main(command) == 0
    assert layout.dataset_index.read_bytes() == before
    assert main([*command, "--check"]) == 0
    del facts["index"]
    layout.dataset_facts.write_text(json.dumps(facts))
    assert main([*command, "--check"]) == 0, "of a version that made none"
