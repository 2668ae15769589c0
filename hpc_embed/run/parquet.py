"""The one room where Parquet is written: in the format's own words, for readers of many ages and languages.

pyarrow would add its schema, in which a vector is a list of fixed size. Parquet has no such list, and every pyarrow
before 26 cannot read one with nulls that 26 wrote so. Without it each reader has the list that the file really holds;
how long a vector is stands in our metadata.
"""

from __future__ import annotations

import json
from io import RawIOBase
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

METADATA_KEY = b"hpc_embed"


def parquet_writer(file: BinaryIO | RawIOBase, schema: pa.Schema, **layout: object) -> pq.ParquetWriter:
    """Writes tables of a schema, whose metadata the file keeps, laid out as pyarrow's options say."""
    writer = pq.ParquetWriter(file, schema, store_schema=False, **layout)
    if schema.metadata:
        writer.add_key_value_metadata(schema.metadata)
    return writer


def write_parquet(file: BinaryIO, table: pa.Table, row_group_rows: int | None = None, **layout: object) -> None:
    """A whole file of one table."""
    with parquet_writer(file, table.schema, **layout) as writer:
        writer.write_table(table, row_group_size=row_group_rows)


def metadata_of(schema: pa.Schema) -> dict[str, object]:
    """What we wrote into a file about all of it; ValueError where that is damaged."""
    metadata = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
    if not isinstance(metadata, dict):
        raise ValueError("metadata of another form")
    return metadata


def with_metadata(schema: pa.Schema, metadata: dict[str, object]) -> pa.Schema:
    """For `parquet_writer`."""
    return schema.with_metadata({METADATA_KEY: json.dumps(metadata).encode("utf-8")})


def numbers_of_a_vector(kind: pa.DataType, metadata: dict[str, object]) -> int:
    """Of a column of vectors; ValueError where neither its type nor the metadata tell, as of another writer's file.

    Up to version 0.1.0 pyarrow's schema was in our files, and told it.
    """
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    if not (isinstance(dimension := metadata.get("dimension"), int) and dimension > 0):
        raise ValueError("how long a vector is stands nowhere")
    return dimension
