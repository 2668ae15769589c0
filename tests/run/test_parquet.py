"""What we write stands in Parquet's own words: for pyarrow of two years ago, and for who has none."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpc_embed.run.parquet import (
    metadata_of,
    numbers_of_a_vector,
    parquet_writer,
    with_metadata,
    write_parquet,
)
from tests.readers import reads
from tests.readers.__main__ import problem_of
from tests.readers.written import write_for_readers

VECTOR = pa.list_(pa.field("element", pa.float32()), 2)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_for_readers(tmp_path_factory.mktemp("files") / "files")


def test_no_file_of_ours_holds_arrows_schema_and_each_list_is_one_of_parquet(found: dict[str, Path]) -> None:
    for kind, path in found.items():
        file = pq.ParquetFile(path)
        assert b"ARROW:schema" not in (file.metadata.metadata or {}), kind
        assert not [field for field in file.schema_arrow if pa.types.is_fixed_size_list(field.type)], kind
    assert pq.read_schema(found["dataset"]).field("embedding").type == pa.list_(pa.field("element", pa.float32()))


@pytest.mark.parametrize("reader", ["duckdb", "polars"])
def test_readers_without_arrow_find_what_we_wrote(reader: str, found: dict[str, Path]) -> None:
    expected = json.loads((found["dataset"].parents[3] / "expected.json").read_text())
    for kind, path in found.items():
        columns: dict[str, Any] = getattr(reads, reader)(str(path))
        plain = {name: reads.plain(list(values)) for name, values in columns.items()}
        assert problem_of({"columns": plain}, expected[kind]) == "", kind


def test_a_record_without_a_vector_is_null_and_not_zeros(found: dict[str, Path]) -> None:
    cells = reads.duckdb(str(found["dataset"]))["embedding"]
    assert [cell is None for cell in cells] == [False, False, True, False, False]
    assert cells[3][cells[3].index(max(cells[3]))] == pytest.approx(0.5), "MKV: two pairs of letters"


def test_metadata_and_the_options_of_the_layout_reach_the_file() -> None:
    file = io.BytesIO()
    schema = with_metadata(pa.schema([("a", pa.int64())]), {"name": "é", "dimension": 2})
    with parquet_writer(file, schema, compression="zstd", write_statistics=False) as writer:
        writer.write_table(pa.table([[1, 2, 3]], schema=schema))
    assert metadata_of(pq.read_schema(file)) == {"name": "é", "dimension": 2}
    chunk = pq.read_metadata(file).row_group(0).column(0)
    assert (chunk.compression, chunk.statistics) == ("ZSTD", None)


def test_a_table_is_written_in_row_groups_and_needs_no_metadata() -> None:
    file = io.BytesIO()
    write_parquet(file, pa.table({"a": range(5)}), 2, compression="none")
    metadata = pq.read_metadata(file)
    assert [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)] == [2, 2, 1]
    assert pq.read_table(file).to_pydict() == {"a": [0, 1, 2, 3, 4]}
    assert metadata_of(pq.read_schema(file)) == {}


def test_how_long_a_vector_is_stands_in_the_metadata_or_in_an_older_files_type() -> None:
    assert numbers_of_a_vector(pa.list_(pa.float32()), {"dimension": 7}) == 7
    assert numbers_of_a_vector(VECTOR, {}) == 2
    for dimension in (None, "7", 0, -1, 1.5):
        with pytest.raises(ValueError, match="stands nowhere"):
            numbers_of_a_vector(pa.list_(pa.float32()), {"dimension": dimension})


@pytest.mark.parametrize("content", [b"{", b"[]", b"7"])
def test_metadata_that_are_damaged_are_no_metadata(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        metadata_of(pa.schema([("a", pa.int64())], metadata={b"hpc_embed": content}))
