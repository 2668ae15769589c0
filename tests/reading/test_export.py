"""Every export, opened by the library that users would open it with, row by row beside the dataset."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import hpc_embed
from hpc_embed.errors import BadInput, EnvironmentFault, RunConflict, UsageError
from hpc_embed.reading.export import Rounding, export
from hpc_embed.reading.export import _contents as contents_of
from hpc_embed.reading.formats import Contents, SafetensorsWriter
from hpc_embed.results.dataset import Vectors, dataset_schema, embedding_column
from hpc_embed.results.index import publish_index
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.outputs import outputs_of
from tests.conftest import Run
from tests.reading.datasets import write_dataset as write_forms

DIMENSION = 5
IDS = [
    *("sp|P1/2", 'a "quoted" id', "tab\there", "sp|P1/2", "sp|P1_2", "..", "", "é\\x", "NaN", "1e5"),
    *(f"repeated{at % 99}" for at in range(297)),
]
"""198 of the last repeat one that went before."""
MISSING = {2: "skipped", 7: "failed", 300: "skipped"}
PARTS = (120, len(IDS))


class Written(NamedTuple):
    """A dataset on disk and what it holds."""

    folder: Path
    vectors: list[NDArray[np.float32] | None]


def write_dataset(folder: Path, *, is_per_token: bool = False, scale: float = 1.0) -> Written:
    """Two parts of small row groups, as gather writes them."""
    draw = np.random.default_rng(0)
    schema = dataset_schema(DIMENSION, "float32", {}, outputs_of("per_token" if is_per_token else "mean", 6))
    vectors: list[NDArray[np.float32] | None] = [
        None
        if at in MISSING
        else (scale * draw.standard_normal((draw.integers(1, 5) if is_per_token else 1, DIMENSION))).astype(np.float32)
        for at in range(len(IDS))
    ]
    (folder / "dataset").mkdir(parents=True)
    for number, (start, stop) in enumerate(zip((0, *PARTS), PARTS, strict=False)):
        chosen = vectors[start:stop]
        num_rows_N = np.array([0 if each is None else len(each) for each in chosen])
        held = np.concatenate([each for each in chosen if each is not None])
        columns = [
            pa.array(range(start, stop)),
            pa.array(IDS[start:stop]),
            embedding_column(Vectors(held, num_rows_N), schema),
            pa.array([10] * len(chosen)),
            pa.array(num_rows_N),
            pa.array([1] * len(chosen), pa.int32()),
            pa.array([0] * len(chosen)),
            pa.array([MISSING.get(at, "embedded") for at in range(start, stop)]),
            pa.array([""] * len(chosen)),
        ]
        table = pa.Table.from_arrays(columns, schema=schema)
        pq.write_table(table, folder / f"dataset/part-{number:05d}.parquet", row_group_size=50)
    facts = {"fingerprint": "f", "outputs_digest": "d", "index": publish_index(RunLayout(folder))._asdict()}
    (folder / "dataset.json").write_text(json.dumps(facts))
    return Written(folder, vectors)


@pytest.fixture(scope="module", params=[False, True], ids=["pooled", "per token"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_dataset(tmp_path_factory.mktemp("run"), is_per_token=request.param)


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_dataset(tmp_path_factory.mktemp("run"))


def held(dataset: Written) -> NDArray[np.float32]:
    """All vectors, in input order."""
    return np.concatenate([each for each in dataset.vectors if each is not None])


def exported(dataset: Written, to: str, tmp_path: Path, numbers: str = "dataset") -> Path:
    made = export(dataset.folder, to, tmp_path / to, numbers, "embedding")
    assert (made.num_records, made.num_without_vector) == (len(IDS), len(MISSING))
    assert made.num_rows == len(held(dataset))
    return tmp_path / to


def test_numpy_maps_into_memory_and_the_id_table_tells_whose_rows_are_whose(dataset: Written, tmp_path: Path) -> None:
    folder = exported(dataset, "npy", tmp_path)
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    assert isinstance(vectors, np.memmap)
    with (folder / "ids.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["id"] for row in rows] == IDS
    assert [row["ordinal"] for row in rows] == [str(at) for at in range(len(IDS))]
    for row, expected in zip(rows, dataset.vectors, strict=True):
        if expected is None:
            assert (row["first_row"], row["num_rows"]) == ("", "0")
        else:
            first = int(row["first_row"])
            assert np.array_equal(vectors[first : first + int(row["num_rows"])], expected)
    assert {int(row["ordinal"]): row["status"] for row in rows if row["status"] != "embedded"} == MISSING


def test_pandas_reads_the_id_table_as_it_is(pooled: Written, tmp_path: Path) -> None:
    import pandas

    table = pandas.read_csv(exported(pooled, "npy", tmp_path) / "ids.tsv", sep="\t", keep_default_na=False)
    assert table["id"].tolist() == IDS


def test_safetensors_holds_one_tensor(dataset: Written, tmp_path: Path) -> None:
    from safetensors.numpy import load_file as load_numpy
    from safetensors.torch import load_file as load_torch

    path = exported(dataset, "safetensors", tmp_path) / "vectors.safetensors"
    assert np.array_equal(load_numpy(path)["embedding"], held(dataset))
    assert np.array_equal(load_torch(path)["embedding"].numpy(), held(dataset))


@pytest.mark.parametrize("num_rows", [0, 1, 12, 123, 1234, 12345, 123456])
def test_the_numbers_of_safetensors_begin_where_eight_bytes_do(num_rows: int, tmp_path: Path) -> None:
    with SafetensorsWriter(tmp_path, Contents("embedding", False, 3, "float16", num_rows, num_rows)):
        pass
    content = (tmp_path / "vectors.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    assert (size % 8, len(content)) == (0, 8 + size)
    assert json.loads(content[8:]) == {
        "embedding": {"dtype": "F16", "shape": [num_rows, 3], "data_offsets": [0, num_rows * 6]}
    }


def test_hdf5_has_a_data_set_for_each_record_and_tells_repeated_ids_apart(dataset: Written, tmp_path: Path) -> None:
    import h5py

    with h5py.File(exported(dataset, "h5", tmp_path) / "vectors.h5", "r") as file:
        names = list(file)
        assert [file[name].attrs["original_id"] for name in names] == [
            name for at, name in enumerate(IDS) if at not in MISSING
        ]
        for name in names:
            expected = dataset.vectors[file[name].attrs["ordinal"]]
            assert expected is not None
            assert np.array_equal(np.atleast_2d(file[name][:]), expected)
        assert names[:5] == ["sp|P1_2", 'a "quoted" id', "sp|P1_2__2", "sp|P1_2__3", "_.."]
        assert sum("__" in name for name in names) == 198 + 2 - 1  # record 300 is skipped


def test_text_is_read_back_by_pandas_and_polars_without_loss(dataset: Written, tmp_path: Path) -> None:
    import pandas
    import polars

    path = exported(dataset, "tsv", tmp_path) / "vectors.tsv"
    numbers = [f"d{at}" for at in range(DIMENSION)]
    table = pandas.read_csv(
        path,
        sep="\t",
        dtype=dict.fromkeys(numbers, np.float32),
        keep_default_na=False,
        na_values={name: [""] for name in numbers},
    )
    kept = table[table["status"] == "embedded"]
    assert np.array_equal(kept[numbers].to_numpy(), held(dataset))
    ids = [
        name for name, each in zip(IDS, dataset.vectors, strict=True) for _ in range(1 if each is None else len(each))
    ]
    assert table["id"].tolist() == ids
    assert table[table["status"] != "embedded"]["d0"].isna().all()
    theirs = polars.read_csv(path, separator="\t", schema_overrides=dict.fromkeys(numbers, polars.Float32))
    assert np.array_equal(theirs.filter(polars.col("status") == "embedded").select(numbers).to_numpy(), held(dataset))


def test_faiss_finds_each_record_by_its_ordinal(pooled: Written, tmp_path: Path) -> None:
    import faiss

    index = faiss.read_index(str(exported(pooled, "faiss", tmp_path) / "vectors.faiss"))
    ordinals = [at for at in range(len(IDS)) if at not in MISSING]
    assert index.ntotal == len(ordinals)
    distances, found = index.search(held(pooled), 1)
    assert found[:, 0].tolist() == ordinals
    assert np.abs(distances).max() <= 1e-4


def test_the_only_column_is_taken_under_any_name_and_one_of_several_by_its_own(pooled: Written, tmp_path: Path) -> None:
    assert export(pooled.folder, "npy", tmp_path / "x", "dataset", "embedding_mean_6").column == "embedding"
    several = hpc_embed.open_dataset(write_forms(tmp_path / "several", "several columns").root)
    assert contents_of(several, "embedding_max_0", "float16").column == "embedding_max_0"
    with pytest.raises(UsageError, match=r"--column embedding: .* none of that name\. Say embedding_mean_6, "):
        contents_of(several, "embedding", "dataset")


def test_faiss_takes_rounded_numbers_too(pooled: Written, tmp_path: Path) -> None:
    import faiss

    export(pooled.folder, "faiss", tmp_path / "x", "float16", "embedding")
    index: Any = faiss.read_index(str(tmp_path / "x/vectors.faiss"))
    rounded = held(pooled).astype(np.float16).astype(np.float32)
    assert np.array_equal(np.stack([index.index.reconstruct(at) for at in range(len(rounded))]), rounded)


def test_faiss_wants_one_vector_a_record(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one vector a record"):
        export(write_dataset(tmp_path, is_per_token=True).folder, "faiss", tmp_path / "x", "dataset", "embedding")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("to", ["npy", "h5", "safetensors", "tsv"])
def test_float16_tells_what_the_rounding_took(pooled: Written, tmp_path: Path, to: str) -> None:
    made = export(pooled.folder, to, tmp_path / to, "float16", "embedding")
    exact = held(pooled).astype(np.float64)
    lost = np.linalg.norm(exact.astype(np.float16) - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert made.largest_rounding == pytest.approx(lost.max())
    assert 1e-5 < made.largest_rounding < 2**-10


def test_float16_refuses_what_does_not_fit(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, scale=1e5)
    first = next(at for at, rows in enumerate(dataset.vectors) if rows is not None and np.abs(rows).max() > 65_519)
    with pytest.raises(BadInput) as caught:
        export(dataset.folder, "npy", tmp_path / "x", "float16", "embedding")
    assert f"record {IDS[first]} (ordinal {first}): its number " in str(caught.value)
    assert str(caught.value).endswith("float16, which ends at 65,504. Export with --numbers float32.")
    assert not (tmp_path / "x").exists()


def test_float16_refuses_a_vector_that_would_be_zero(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"record .* makes all of them 0"):
        export(write_dataset(tmp_path, scale=1e-10).folder, "npy", tmp_path / "x", "float16", "embedding")


def test_no_rows_are_rounded_too() -> None:
    assert Rounding("float16")(np.zeros((0, 3), np.float32)).shape == (0, 3)


def test_an_export_is_safe_to_repeat_and_never_replaces_another(pooled: Written, tmp_path: Path) -> None:
    first = export(pooled.folder, "npy", tmp_path / "x", "dataset", "embedding")
    before = (tmp_path / "x/vectors.npy").stat().st_mtime_ns
    assert export(pooled.folder / "dataset", "npy", tmp_path / "x", "dataset", "embedding") == first
    assert (tmp_path / "x/vectors.npy").stat().st_mtime_ns == before
    with pytest.raises(RunConflict, match="holds something else"):
        export(pooled.folder, "tsv", tmp_path / "x", "dataset", "embedding")
    with pytest.raises(RunConflict, match="no run folder with a dataset"):
        export(tmp_path, "npy", tmp_path / "y", "dataset", "embedding")


def test_a_library_that_is_missing_is_named(pooled: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(EnvironmentFault, match="h5py is not installed"):
        export(pooled.folder, "h5", tmp_path / "x", "dataset", "embedding")


@pytest.mark.long
def test_the_command_exports_what_local_has_made(run: Run, globins: Path, tmp_path: Path) -> None:
    run("local", globins, "--workers", 1)
    said = run("export", "embed-run", "--to", "h5", "--numbers", "float16").stdout
    assert "45 vectors of dimension 420, float16, of 45 records" in said
    assert "rounding to float16 took at most" in said
    import h5py

    table = pq.read_table(tmp_path / "embed-run/dataset")
    with h5py.File(tmp_path / "embeddings-h5/vectors.h5") as file:
        assert list(file) == table["id"].to_pylist()
