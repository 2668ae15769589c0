"""The parts of a dataset: how much is in memory and in a file at once, by hand, and what is read for it."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from hpc_embed.progress import Silent
from hpc_embed.results import parts as parts_module
from hpc_embed.results.dataset import Arrangement, dataset_schema
from hpc_embed.results.parts import Part, PartsWriter, Room
from hpc_embed.results.windows import WindowVectors
from hpc_embed.run.hashed import Hashed
from hpc_embed.run.outputs import outputs_of

MEBIBYTE = 1 << 20


class Source:
    """A window for each record, whose vector is its key; notes what is read at once."""

    def __init__(self, num_windows: int, dimension: int, num_rows: int = 0, is_per_token: bool = False) -> None:
        self.num_windows, self.dimension, self.is_per_token = num_windows, dimension, is_per_token
        self.num_rows = num_rows or num_windows
        self.read_keys: list[list[int]] = []

    def count_rows(self, keys_K: NDArray[np.int64]) -> int:
        return len(keys_K)

    def read(self, keys_K: NDArray[np.int64]) -> WindowVectors:
        self.read_keys.append(keys_K.tolist())
        vectors_RD = np.repeat(keys_K[:, None], self.dimension, axis=1).astype(np.float32)
        return WindowVectors(keys_K, vectors_RD, np.arange(len(keys_K)), np.full(len(keys_K), 7, np.int32), False)

    def without_vectors(self, keys_K: NDArray[np.int64]) -> WindowVectors:
        raise AssertionError("the dataset has vectors")


def records(folder: Path, number: int, row_group_rows: int = 1000, num_skipped: int = 0) -> Path:
    """So many, each with the window of its number but for the first ones, which are skipped."""
    names = [f"r{at}" for at in range(number)]
    windows = [[] if at < num_skipped else [at] for at in range(number)]
    table = pa.table(
        {
            "ordinal": pa.array(range(number), pa.int64()),
            "id": names,
            "length": pa.array([7] * number, pa.int64()),
            "num_unknown": pa.array([1] * number, pa.int64()),
            "status": ["skipped" if not keys else "embedded" for keys in windows],
            "reason": [""] * number,
            "windows": pa.array(windows, pa.list_(pa.int64())),
            "of nobody's interest": names,
        }
    )
    pq.write_table(table, folder / "records.parquet", row_group_size=row_group_rows)
    return folder / "records.parquet"


def writer_of(
    folder: Path, source: Source, room: Room, pooling: str = "mean", dtype: str = "float32", number: int = 10,
    row_group_rows: int = 1000, num_skipped: int = 0, holds_vectors: bool = True,
) -> PartsWriter:  # fmt: skip
    how = Arrangement(outputs_of(pooling, 0), 2, None, holds_vectors=holds_vectors)
    schema = dataset_schema(source.dimension, dtype, {}, how.outputs, holds_vectors=holds_vectors)
    (folder / "dataset").mkdir(exist_ok=True)
    path = records(folder, number, row_group_rows, num_skipped)
    return PartsWriter(folder / "dataset", path, source, how, schema, room)


@pytest.mark.parametrize(
    ("pooling", "dtype", "source", "room", "expected"),
    [
        # 1,280 numbers of 4 bytes are 40 MiB a group of 8,192: 12 groups a part; 6 * 40 MiB a thread of 512
        ("mean", "float32", Source(10, 1280), Room(512, 512, 8), (8192, 12 * 8192, 2, (256 - 200) * MEBIBYTE)),
        ("mean", "float32", Source(10, 1280), Room(512, 512, 1), (8192, 12 * 8192, 1, (512 - 200) * MEBIBYTE)),
        ("mean", "float16", Source(10, 1280), Room(512, 512, 1), (8192, 25 * 8192, 1, (512 - 200) * MEBIBYTE)),
        ("mean", "float32", Source(10, 1280), Room(1, 1, 8), (8192, 8192, 1, 40 * MEBIBYTE)),
        # 300 vectors a record: 27 records a group, of 27 * 300 * 1,280 numbers
        (
            "per_token", "float32", Source(1000, 1280, 300_500, True), Room(512, 512, 8),
            (27, 12 * 27, 2, 256 * MEBIBYTE - 5 * 27 * 300 * 5120),
        ),
        (
            "per_token", "float32", Source(10, 64, 20_000 * 10, True), Room(1, 64, 1),
            (1, 1, 1, 64 * MEBIBYTE - 5 * 20_000 * 256),
        ),
        # five windows a record of ten
        (
            "mean,per_window", "float32", Source(59, 1280), Room(512, 512, 8),
            (1638, 12 * 1638, 2, 256 * MEBIBYTE - 5 * 1638 * 5 * 5120),
        ),
        ("mean,per_window", "float32", Source(3, 1280), Room(512, 512, 2), (8192, 12 * 8192, 2, 56 * MEBIBYTE)),
    ],
    ids=lambda value: value.replace("_", " ") if isinstance(value, str) else None,
)  # fmt: skip
def test_groups_parts_and_threads_fit_the_room(
    pooling: str, dtype: str, source: Source, room: Room, expected: tuple[int, int, int, int], tmp_path: Path
) -> None:
    writer = writer_of(tmp_path, source, room, pooling, dtype)
    found = (writer._rows_per_group, writer._rows_per_part, writer._num_threads, writer._bytes_at_once)
    assert found == expected


def test_a_dataset_without_vectors_counts_64_bytes_a_record(tmp_path: Path) -> None:
    writer = writer_of(tmp_path, Source(10, 1280), Room(1, 512, 1), holds_vectors=False)
    assert writer._rows_per_part == 2 * 8192


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two records a group, and sizes in bytes."""
    monkeypatch.setattr(parts_module, "ROW_GROUP_ROWS", 2)
    monkeypatch.setattr(parts_module, "MEBIBYTE", 1)


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("row_group_rows", [1, 3, 4, 1000])
@pytest.mark.parametrize(
    ("part_bytes", "num_threads", "sizes"),
    [(1, 1, [2] * 5 + [1]), (64, 1, [4, 4, 3]), (64, 3, [4, 4, 3]), (10**6, 2, [11])],
)
def test_every_record_is_in_one_part_in_its_order(
    row_group_rows: int, part_bytes: int, num_threads: int, sizes: list[int], tmp_path: Path
) -> None:
    room = Room(part_bytes, 10**6, num_threads)
    writer = writer_of(tmp_path, Source(11, 4), room, number=11, row_group_rows=row_group_rows, num_skipped=2)
    statuses, parts = writer.write(Silent())
    assert statuses == {"skipped": 2, "embedded": 9}
    paths = sorted((tmp_path / "dataset").iterdir())
    assert [path.name for path in paths] == [f"part-{at:05d}.parquet" for at in range(len(sizes))] == list(parts)
    for path, rows in zip(paths, sizes, strict=True):
        content = path.read_bytes()
        assert parts[path.name] == Part(rows, len(content), hashlib.sha256(content).hexdigest())
        footer = pq.read_metadata(path)
        groups = [footer.row_group(at).num_rows for at in range(footer.num_row_groups)]
        assert groups == [2] * (rows // 2) + [1] * (rows % 2)
    table = pq.read_table(tmp_path / "dataset")
    assert table["ordinal"].to_pylist() == list(range(11))
    assert table["embedding"].to_pylist() == [None, None, *([float(at)] * 4 for at in range(2, 11))]
    assert table["num_tokens"].to_pylist() == [0, 0, *[7] * 9]
    assert table["num_windows"].to_pylist() == [0, 0, *[1] * 9]
    assert table["num_unknown"].to_pylist() == [1] * 11


def test_nothing_is_one_part_of_nothing(tmp_path: Path) -> None:
    statuses, parts = writer_of(tmp_path, Source(0, 4), Room(1, 1, 1), number=0).write(Silent())
    assert (statuses, [part.rows for part in parts.values()]) == ({}, [0])


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize(
    ("memory", "reads"),
    [
        (1, [[0, 1], [2, 3], [4, 5], [6], []]),  # a group at a time
        (5 * 32 + 33, [[0, 1, 2, 3], [4, 5, 6], []]),  # beside the copies of the group that is written
        (5 * 32 + 64, [[0, 1, 2, 3], [4, 5, 6], []]),
        (5 * 32 + 65, [[0, 1, 2, 3, 4, 5], [6]]),
        (5 * 32 + 10**6, [[0, 1, 2, 3, 4, 5, 6]]),
    ],
)
def test_vectors_of_several_groups_are_read_together_where_they_have_room(
    memory: int, reads: list[list[int]], tmp_path: Path
) -> None:
    source = Source(7, 4)
    writer_of(tmp_path, source, Room(10**6, memory, 1), number=7).write(Silent())
    found = [keys for keys in source.read_keys if keys]
    assert found == [keys for keys in reads if keys]


@pytest.mark.usefixtures("small_groups")
def test_where_a_part_fails_the_others_end_with_the_group_they_are_at(tmp_path: Path) -> None:
    class Failing(Source):
        def read(self, keys_K: NDArray[np.int64]) -> WindowVectors:
            made = super().read(keys_K)
            if 0 in keys_K:
                assert began.wait(10)
                raise OSError("no more")
            if 10 in keys_K:
                began.set()
                deadline = time.monotonic() + 10
                while not writer._is_over and time.monotonic() < deadline:
                    time.sleep(0.001)
            return made

    began, source = threading.Event(), Failing(20, 4)
    writer = writer_of(tmp_path, source, Room(160, 2 * 6 * 32, 2), number=20)
    with pytest.raises(OSError, match="no more"):
        writer.write(Silent())
    assert writer._is_over
    assert sorted(source.read_keys) == [[0, 1], [10, 11]]


@pytest.mark.parametrize("pooling", ["mean", "per_token", "windows"], ids=["pooled", "per token", "windows"])
def test_vectors_are_plain_pages_and_the_rest_is_packed(pooling: str, tmp_path: Path) -> None:
    holds_vectors = pooling != "windows"
    outputs = outputs_of("per_token" if pooling == "per_token" else "mean", 0)
    how = Arrangement(outputs, 2, None, holds_vectors=holds_vectors)
    schema = dataset_schema(4, "float32", {}, outputs, holds_vectors=holds_vectors)
    writer = PartsWriter(
        tmp_path, records(tmp_path, 3), Source(3, 4, 9, pooling == "per_token"), how, schema, Room(1, 1, 1)
    )
    path = tmp_path / "part"
    with path.open("wb") as file, writer._parquet_writer(Hashed(file)) as parquet:
        empty = {name: pa.nulls(3, schema.field(name).type) for name in schema.names}
        parquet.write_table(pa.table({**empty, "ordinal": pa.array([1, 2, 3])}, schema=schema))
    group = pq.read_metadata(path).row_group(0)
    found = {group.column(at).path_in_schema.split(".")[0]: group.column(at) for at in range(group.num_columns)}
    assert {name for name, column in found.items() if column.compression == "UNCOMPRESSED"} == (
        {"embedding"} if holds_vectors else set()
    )
    assert {name for name, column in found.items() if column.compression == "ZSTD"} == {*schema.names} - {"embedding"}
    assert {name for name, column in found.items() if column.statistics} == {"ordinal"}
    assert {name for name, column in found.items() if column.has_dictionary_page} == {"status", "reason"}


def test_keys_are_each_named_once_and_ascend() -> None:
    blocks = [
        pa.record_batch({"windows": pa.array(keys, pa.list_(pa.int64()))})
        for keys in ([[4, 1], []], [[1, 9], [0, 4]], [])
    ]
    assert parts_module._keys(blocks).tolist() == [0, 1, 4, 9]
    assert parts_module._keys(blocks[2:]).tolist() == parts_module._keys([]).tolist() == []


def test_a_record_of_several_rows_has_one_status_and_fails_with_any() -> None:
    rows = [
        (0, "failed"),
        (0, "windowed"),
        (1, "windowed"),
        (1, "failed"),
        (2, "embedded"),
        (3, "windowed"),
        (3, "windowed"),
    ]
    ordinals, statuses = (list(column) for column in zip(*rows, strict=True))
    table = pa.table({"ordinal": ordinals, "status": statuses, "start": [0] * len(rows)})
    assert parts_module._statuses(table) == {"failed": 2, "embedded": 1, "windowed": 1}
    assert parts_module._statuses(table.drop_columns("start")) == {"failed": 2, "windowed": 4, "embedded": 1}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_columns_have_the_names_and_types_that_readers_know(dtype: str) -> None:
    outputs = outputs_of("per_token,mean", 0)
    schema = dataset_schema(4, dtype, {"model": "m"}, outputs)
    number = {"float32": pa.float32(), "float16": pa.float16()}[dtype]
    vector = pa.large_list(pa.field("element", number))
    per_token, pooled = (schema.field(name) for name in schema.names if name.startswith("embedding"))
    assert (per_token.type, pooled.type) == (pa.large_list(pa.field("element", vector)), vector)
    assert per_token.type.value_field.name == pooled.type.value_field.name == "element"
    assert [schema.field(name).type for name in ("ordinal", "id", "num_windows")] == [
        pa.int64(),
        pa.string(),
        pa.int32(),
    ]
    assert schema.metadata == {b"hpc_embed": b'{"model": "m", "dimension": 4}'}
    assert "windows" in dataset_schema(4, dtype, {}, outputs, holds_vectors=False).names
