"""Files of vectors: what is in them, whatever came at once, and how it lies there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpc_embed.run import rows as rows_module
from hpc_embed.run import vectors
from hpc_embed.run.placed import PlacedFile
from hpc_embed.run.rows import RowReader
from hpc_embed.run.vectors import VectorFile, Vectors, VectorWriter


def numbered(first: int, stop: int) -> Vectors:
    keys = np.arange(first, stop)
    return Vectors(keys, (keys + 1).astype(np.int32), np.stack((keys, -keys, 0.5 * keys), axis=1).astype(np.float32))


def written(path: Path, *sizes: int) -> Path:
    with path.open("wb") as file, VectorWriter(file, 3, {"fingerprint": "f"}) as writer:
        first = 0
        for size in sizes:
            writer.write(numbered(first, first + size))
            first += size
    return path


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([3, 4, 2, 1], [4, 3, 3]),  # seven at once are two groups
        ([1] * 10, [4, 4, 2]),
        ([4, 4, 2], [4, 4, 2]),
        ([10], [4, 4, 2]),
        ([0, 3, 0], [3]),
        ([], []),
    ],
)
def test_rows_wait_for_a_row_group_and_none_is_lost(
    sizes: list[int], groups: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "ROW_GROUP_ROWS", 4)
    path = written(tmp_path / "file", *sizes)
    metadata = pq.read_metadata(path)
    found = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
    assert found == groups
    file = VectorFile(path)
    assert file.windows().tolist() == list(range(sum(sizes)))
    assert file.num_tokens().tolist() == list(range(1, sum(sizes) + 1))
    assert file.num_tokens().dtype == np.int32
    assert file.places().first_row_G == (0, *np.cumsum(groups).tolist())
    expected = numbered(0, sum(sizes))
    assert np.concatenate([np.empty((0, 3)), *(each.vectors_ND for each in file)]).tolist() == (
        expected.vectors_ND.tolist()
    )


def test_numbers_lie_plain_side_by_side_and_say_whose_they_are(tmp_path: Path) -> None:
    path = written(tmp_path / "file", 5)
    column = pq.read_metadata(path).row_group(0).column(2)
    assert (column.compression, column.statistics, column.has_dictionary_page) == ("UNCOMPRESSED", None, False)
    assert all("DICTIONARY" not in encoding for encoding in column.encodings)
    schema = pq.read_schema(path)
    assert schema.field("vector").type == pa.list_(pa.field("element", pa.float32(), nullable=False))
    assert schema.field("vector").type.value_field.name == "element"
    assert not schema.field("vector").type.value_field.nullable
    assert [str(schema.field(name).type) for name in ("window", "num_tokens")] == ["int64", "int32"]
    assert schema.metadata[b"hpc_embed"] == b'{"fingerprint": "f", "dimension": 3}'
    assert (VectorFile(path).dimension, VectorFile(path).metadata) == (3, {"fingerprint": "f"})
    start = VectorFile(path).places().first_byte_G[0]
    assert (
        np.frombuffer(path.read_bytes()[start : start + 60], "<f4").tolist()
        == numbered(0, 5).vectors_ND.ravel().tolist()
    )


def test_numbers_of_another_type_become_float32(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, VectorWriter(file, 3, {}) as writer:
        rows = numbered(0, 4)
        writer.write(Vectors(rows.windows_N, rows.num_tokens_N.astype(np.int64), rows.vectors_ND.astype(np.float64)))
    (found,) = VectorFile(tmp_path / "file")
    assert found.vectors_ND.dtype == np.float32
    assert (found.vectors_ND == rows.vectors_ND).all()
    assert found.num_tokens_N.tolist() == rows.num_tokens_N.tolist()


@pytest.mark.parametrize("is_placed", [True, False])
@pytest.mark.parametrize(
    "wanted", [[], [0], [9], [3, 4], [4, 3], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 0, 1, 2, 7, 8, 3, 3, 5, 7]]
)
def test_rows_come_in_the_order_asked_for_across_row_groups(
    wanted: list[int], is_placed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "ROW_GROUP_ROWS", 4)
    places = VectorFile(written(tmp_path / "file", 10)).places()
    if not is_placed:  # as in files of a version that wrote several pages
        places = places._replace(first_byte_G=(-1, -1, -1))
    reads: list[int] = []
    plain = PlacedFile.fill

    def fill(file: PlacedFile, numbers: np.ndarray, start: int) -> None:
        reads.append(len(numbers))
        plain(file, numbers, start)

    monkeypatch.setattr(PlacedFile, "fill", fill)
    found = np.full((len(wanted), 3), np.nan, dtype=np.float32)
    RowReader().fill(found, places, np.array(wanted, dtype=np.int64))
    assert found.tolist() == numbered(0, 10).vectors_ND[wanted].tolist()
    in_one = {(3, 4): [1, 1], tuple(range(10)): [4, 4, 2], (9, 0, 1, 2, 7, 8, 3, 3, 5, 7): [1, 3, 1, 1, 1, 1, 1, 1]}
    if is_placed and tuple(wanted) in in_one:
        assert reads == in_one[tuple(wanted)]


def test_a_row_group_is_decoded_once_for_many_of_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = VectorFile(written(tmp_path / "file", 6)).places()._replace(first_byte_G=(-1,))
    decoded: list[int] = []
    plain = VectorFile.rows

    def rows(file: VectorFile, group: int) -> Vectors:
        decoded.append(group)
        return plain(file, group)

    monkeypatch.setattr(VectorFile, "rows", rows)
    reader = RowReader()
    for wanted in ([0, 2, 4], [5]):
        reader.fill(np.empty((len(wanted), 3), np.float32), places, np.array(wanted))
    assert decoded == [0]


def test_the_file_that_was_longest_unused_is_closed_when_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "MOST_OPEN_FILES", 2)
    opened: list[str] = []
    plain = PlacedFile.__init__

    def init(file: PlacedFile, path: Path) -> None:
        opened.append(path.name)
        plain(file, path)

    monkeypatch.setattr(PlacedFile, "__init__", init)
    places = {name: VectorFile(written(tmp_path / name, 2)).places() for name in "abc"}
    reader, row = RowReader(), np.array([1])
    for name in ("a", "b", "a", "c", "a", "b", "c"):
        found = np.empty((1, 3), np.float32)
        reader.fill(found, places[name], row)
        assert found.tolist() == [[1, -1, 0.5]]
    assert opened == ["a", "b", "c", "b", "c"]
