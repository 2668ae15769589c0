"""Run by the Python of each environment: `reads.py READER files.json` prints what the reader finds in each file.

It knows nothing of hpc-embed, and runs on every Python that a reader does.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from typing import Any


def pyarrow(path: str) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pydict()


def pandas(path: str) -> Any:
    import pandas as pd

    return pd.read_parquet(path, engine="pyarrow").to_dict(orient="list")


def fastparquet(path: str) -> Any:
    from fastparquet import ParquetFile

    return ParquetFile(path).to_pandas().to_dict(orient="list")


def polars(path: str) -> Any:
    import polars as pl

    return pl.read_parquet(path).to_dict(as_series=False)


def duckdb(path: str) -> Any:
    import duckdb as db

    found = db.execute("select * from read_parquet(?)", [path])
    names = [column[0] for column in found.description]
    rows = found.fetchall()
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}


def datasets(path: str) -> Any:
    import datasets as hf

    with tempfile.TemporaryDirectory() as cache:
        return hf.Dataset.from_parquet(path, cache_dir=cache)[:]


def arro3(path: str) -> Any:
    from arro3.io import read_parquet

    table = read_parquet(path).read_all()
    return {name: [each.as_py() for each in table.column(name)] for name in table.schema.names}


def plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("latin-1")
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def main(reader: str, files: str) -> None:
    with open(files) as file:  # noqa: PTH123
        paths = json.load(file)
    found: dict[str, Any] = {}
    for kind, path in paths.items():
        try:
            columns = globals()[reader](path)
            found[kind] = {"columns": {name: plain(list(values)) for name, values in columns.items()}}
        except Exception as error:
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            found[kind] = {"error": "%s: %s" % (type(error).__name__, line[:200])}  # noqa: UP031
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
