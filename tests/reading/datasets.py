"""Small datasets of every form, made by gather's own writer from vectors that are drawn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from hpc_embed.planning.records import SCHEMA
from hpc_embed.progress import Silent
from hpc_embed.results import parts as writing
from hpc_embed.results.dataset import Arrangement, dataset_schema
from hpc_embed.results.index import publish_index
from hpc_embed.results.parts import PartsWriter, Room
from hpc_embed.results.windows import WindowVectors
from hpc_embed.run.files import sha256_of_file
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.outputs import outputs_of

ODD_IDS = ["sp|P1/2", 'a "quoted" id', "tab\there", "", "é\\x", "日本語", "NaN", "1e5", "..", "a" * 1000]
NUM_ROWS = 400
DIMENSION = 5
FORMS: dict[str, tuple[str, Any, str]] = {
    "pooled": ("mean", 6, "float32"),
    "float16": ("mean", 6, "float16"),
    "several columns": ("mean,max", (6, 0), "float32"),
    "per token": ("per_token", 6, "float32"),
    "per token and pooled": ("per_token,mean", (6, 0), "float16"),
    "per window": ("mean,per_window", 6, "float32"),
}


def ids(num_rows: int) -> list[str]:
    """Odd ones, and many that occur four times."""
    return [*ODD_IDS, *(f"repeated{at % 99}" for at in range(num_rows - len(ODD_IDS)))][:num_rows]


def write_dataset(folder: Path, form: str = "pooled", num_rows: int = NUM_ROWS, group_rows: int = 50) -> RunLayout:
    """Parts of one row group or two: skipped records, failed ones, ones of several windows, windows that are shared."""
    pooling, layer, dtype = FORMS[form]
    outputs, layout = outputs_of(pooling, layer), RunLayout(folder)
    draw = np.random.default_rng(3)
    layout.dataset.mkdir(parents=True)
    num_windows_N = draw.choice([0, 1, 2, 3], num_rows, p=[0.1, 0.6, 0.2, 0.1])
    num_unique = max(int(num_windows_N.sum() * 0.9), 1)
    keys = [draw.integers(0, num_unique, count).tolist() for count in num_windows_N]
    status = [["skipped", "embedded", "windowed", "windowed"][count] for count in num_windows_N]
    columns: dict[str, Any] = {
        "ordinal": range(num_rows), "id": ids(num_rows), "description": [""] * num_rows,
        "length": [17 * count for count in num_windows_N], "source": [0] * num_rows, "line": range(num_rows),
        "status": status, "reason": ["" if name != "skipped" else "empty" for name in status],
        "num_unknown": [0] * num_rows, "windows": keys,
    }  # fmt: skip
    pq.write_table(pa.table(columns, schema=SCHEMA), layout.records)
    windows = _windows(draw, num_unique, outputs)
    arrangement = Arrangement(outputs, 2, 17)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "ROW_GROUP_ROWS", group_rows)
        patch.setattr(writing, "MEBIBYTE", 2 * group_rows * 4 * DIMENSION)
        schema = dataset_schema(DIMENSION * outputs.width, dtype, {}, outputs)
        room = Room(part_mebibytes=1, memory_mebibytes=1, num_threads=2)
        written = PartsWriter(layout.dataset, layout.records, windows, arrangement, schema, room).write(Silent())
    facts = {"parts": {name: part._asdict() for name, part in written.parts.items()}}
    layout.dataset_facts.write_text(json.dumps({**facts, "index": publish_index(layout)._asdict()}))
    return layout


def tell_new_digests(layout: RunLayout) -> None:
    """dataset.json of a dataset whose parts somebody else has written anew."""
    facts = json.loads(layout.dataset_facts.read_text())
    for name, part in facts["parts"].items():
        part |= {"sha256": sha256_of_file(layout.dataset / name), "num_bytes": (layout.dataset / name).stat().st_size}
    layout.dataset_facts.write_text(json.dumps(facts))


@dataclass
class Drawn:
    """Vectors of all windows in memory, where gather has them in outputs."""

    vectors_RD: NDArray[np.float32]
    first_row_U: NDArray[np.int64]
    num_rows_U: NDArray[np.int64]
    num_tokens_U: NDArray[np.int32]
    is_per_token: bool

    @property
    def num_windows(self) -> int:
        return len(self.num_tokens_U)

    @property
    def num_rows(self) -> int:
        return len(self.vectors_RD)

    @property
    def dimension(self) -> int:
        return int(self.vectors_RD.shape[1])

    def count_rows(self, keys_K: NDArray[np.int64]) -> int:
        return int(self.num_rows_U[keys_K].sum())

    def without_vectors(self, keys_K: NDArray[np.int64]) -> WindowVectors:
        return self.read(keys_K)

    def read(self, keys_K: NDArray[np.int64]) -> WindowVectors:
        return WindowVectors(
            keys_K, self.vectors_RD, self.first_row_U[keys_K], self.num_tokens_U[keys_K], self.is_per_token
        )


def _windows(draw: np.random.Generator, num_unique: int, outputs: Any) -> Drawn:
    num_tokens_U = draw.integers(1, 6, num_unique).astype(np.int32)
    num_tokens_U[::29] = 0  # failed
    is_per_token = outputs.per_letter is not None
    num_rows_U = (
        np.where(num_tokens_U > 0, num_tokens_U + outputs.num_pooled_rows, 0)
        if is_per_token
        else np.ones(num_unique, np.int64)
    )
    stops_U = np.cumsum(num_rows_U)
    vectors_RD = draw.standard_normal((int(stops_U[-1]), DIMENSION * outputs.width)).astype(np.float32)
    return Drawn(vectors_RD, stops_U - num_rows_U, num_rows_U, num_tokens_U, is_per_token)


def as_pandas(layout: RunLayout) -> Any:
    """The oracle: what pandas reads."""
    import pandas

    return pandas.read_parquet(layout.dataset)
