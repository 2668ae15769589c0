"""A dataset in the form that the next tool reads: streamed by row groups, published whole."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from hpc_embed.errors import BadInput, RunConflict, UsageError
from hpc_embed.progress import counting
from hpc_embed.reading.dataset import Dataset
from hpc_embed.reading.formats import FORMATS, Block, Contents
from hpc_embed.results.checking import check
from hpc_embed.results.dataset import find_dataset
from hpc_embed.results.narrowing import DoesNotHold, narrowed
from hpc_embed.run.files import whole_folder, write_json

FACTS = "export.json"
ID_TABLE = "ids.tsv"
ID_COLUMNS = ("ordinal", "id", "status", "first_row", "num_rows")


class Exported(NamedTuple):
    """What was written."""

    folder: str
    format: str
    column: str
    num_records: int
    num_without_vector: int
    num_rows: int
    dimension: int
    dtype: str
    largest_rounding: float
    """Of any vector, against its length; 0 where nothing was rounded."""


class Rounding:
    """Numbers to another type, and how much of any vector that took away."""

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        self.largest = 0.0

    def __call__(self, vectors_RD: NDArray[np.floating]) -> NDArray[np.floating]:
        """Rounded; DoesNotHold as in `narrowed`."""
        if vectors_RD.dtype == self._dtype:
            return vectors_RD
        rounded_RD = narrowed(vectors_RD, self._dtype)
        exact_RD = vectors_RD.astype(np.float64)
        length_R = np.linalg.norm(exact_RD, axis=1)
        lost_R = np.linalg.norm(rounded_RD - exact_RD, axis=1)
        self.largest = max(self.largest, float((lost_R / np.maximum(length_R, 1e-300)).max(initial=0.0)))
        return rounded_RD


def export(where: Path, to: str, target: Path, dtype: str, column: str) -> Exported:
    """Write a run's dataset into a folder in one of FORMATS.

    Raises RunConflict where there is no dataset, or something else in the target's place.
    """
    layout = find_dataset(where)
    dataset = Dataset(layout)
    facts = json.loads(layout.dataset_facts.read_text(encoding="utf-8"))
    if "parts" in facts:  # else of a version that wrote no checksums
        check(layout, and_plan=False)
    contents = _contents(dataset, column, dtype)
    wanted = {"dataset": facts["fingerprint"], "outputs_digest": facts["outputs_digest"], "format": to}
    wanted |= {"column": contents.column, "dtype": contents.dtype}
    if (found := _existing(target, wanted)) is not None:
        return found
    rounding = Rounding(contents.dtype)
    missing = num_rows = 0
    with (
        counting("exporting", contents.num_records, "records") as count,
        whole_folder(target) as temporary,
        ExitStack() as stack,
    ):
        writer = stack.enter_context(FORMATS[to](temporary, contents))
        ids = stack.enter_context((temporary / ID_TABLE).open("w", encoding="utf-8", newline=""))
        for block in _blocks(dataset, contents, rounding):
            writer.write(block)
            _write_ids(ids, block, num_rows)
            missing += int((block.num_rows_N == 0).sum())
            num_rows += len(block.vectors_RD)
            count.advance(len(block.ids_N))
        stack.close()
        content = {
            "num_records": contents.num_records,
            "num_without_vector": missing,
            "num_rows": num_rows,
            "dimension": contents.dimension,
            "largest_rounding": rounding.largest,
        }
        write_json(temporary / FACTS, wanted | content)
    result = _existing(target, wanted)
    assert result is not None
    return result


def _contents(dataset: Dataset, column: str, dtype: str) -> Contents:
    if column not in dataset.columns and len(dataset.columns) == 1:
        (column,) = dataset.columns
    if column not in dataset.columns:
        remedy = f"Say {', '.join(dataset.columns)}."
        raise UsageError(f"--column {column}: the dataset has none of that name.", remedy=remedy)
    about = dataset.columns[column]
    return Contents(
        column=column,
        is_per_token=about.is_per_token,
        dimension=about.dimension,
        dtype=str(about.dtype) if dtype == "dataset" else dtype,
        num_records=len(dataset),
        num_rows=dataset.num_tokens if about.is_per_token else dataset.num_vectors,
    )


def _blocks(dataset: Dataset, contents: Contents, rounding: Rounding) -> Iterator[Block]:
    """A row group at a time; BadInput, naming the record, for a vector that the numbers of the export do not hold."""
    for group in dataset.row_groups:
        batch = dataset.batch(group.rows, [contents.column])
        num_rows_N = batch.num_tokens_N if contents.is_per_token else batch.has_vector_N.astype(np.int64)
        try:
            vectors_RD = rounding(batch.columns[contents.column])
        except DoesNotHold as error:
            at = int(np.searchsorted(np.cumsum(num_rows_N), error.row, side="right"))
            raise BadInput(
                f"record {batch.ids_N[at]} (ordinal {batch.ordinals_N[at]}): {error}.",
                remedy="Export with --numbers float32.",
            ) from error
        yield Block(
            ordinals_N=batch.ordinals_N,
            ids_N=batch.ids_N,
            lengths_N=batch.lengths_N,
            statuses_N=batch.statuses_N,
            num_rows_N=num_rows_N,
            vectors_RD=vectors_RD,
        )


def _write_ids(file: TextIO, block: Block, first_row: int) -> None:
    """Every record and its rows; ids with tabs or quotes are quoted as in any CSV."""
    table = csv.writer(file, delimiter="\t", lineterminator="\n")
    if first_row == 0 and file.tell() == 0:
        table.writerow(ID_COLUMNS)
    first_N = first_row + np.cumsum(block.num_rows_N) - block.num_rows_N
    table.writerows(
        (ordinal, name, status, first if rows else "", rows)
        for ordinal, name, status, first, rows in zip(
            block.ordinals_N.tolist(),
            block.ids_N,
            block.statuses_N,
            first_N.tolist(),
            block.num_rows_N.tolist(),
            strict=True,
        )
    )


def _existing(target: Path, wanted: Mapping[str, object]) -> Exported | None:
    """What an earlier call left; RunConflict where something else lies there."""
    if not target.exists():
        return None
    try:
        found = json.loads((target / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    if any(found.get(key) != value for key, value in wanted.items()):
        raise RunConflict(f"--output {target}: holds something else.", remedy="Choose another folder, or remove it.")
    rest = {name: found[name] for name in Exported._fields if name in found}
    return Exported(**{"folder": str(target), **rest})
