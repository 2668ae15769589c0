"""A gathered dataset, read back without loading it: one id, one row, or batches of them."""

# N = rows of a batch, R = their vectors, D = dimension

from __future__ import annotations

import json
import tempfile
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpc_embed.errors import RunConflict, UnknownRecord, UsageError
from hpc_embed.reading.index import Index
from hpc_embed.reading.shards import ShardVectors
from hpc_embed.reading.vectors import VectorReader, is_proven
from hpc_embed.results.dataset import Arrangement, find_dataset
from hpc_embed.results.index import SUMS, write_index
from hpc_embed.run.faults import patiently
from hpc_embed.run.files import read_bytes
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Embedding
from hpc_embed.run.vectors import ROW_GROUP_ROWS, Damaged, faults_of_content

Array = NDArray[np.floating]
T = TypeVar("T")
Sums = tuple[int, ...]
"""A record as it begins, in the order of SUMS."""
TEXT, VECTORS, TOKENS = range(len(SUMS))


class Record(NamedTuple):
    """A row: a record of the input, or with --pooling per_window a window of one."""

    ordinal: int
    id: str
    columns: Mapping[str, Array | None]
    """By name: [D], or [R, D] where each token has a vector; None for a record without."""
    length: int
    num_tokens: int
    num_windows: int
    status: str
    reason: str
    start: int | None = None
    """Of a window, and so is `stop`: the residues that it covers."""
    stop: int | None = None

    @property
    def vector(self) -> Array | None:
        """That of the only column."""
        return _only(self.columns)


class Batch(NamedTuple):
    """Rows side by side. A record without a vector has its row in all but the vectors."""

    ordinals_N: NDArray[np.int64]
    ids_N: list[str]
    columns: Mapping[str, Array]
    """By name: [R, D], one for each row with a vector; num_tokens_N for each row where each token has one."""
    has_vector_N: NDArray[np.bool_]
    lengths_N: NDArray[np.int64]
    num_tokens_N: NDArray[np.int64]
    statuses_N: list[str]
    starts_N: NDArray[np.int64] | None = None
    """Of windows, and so are `stops_N`; -1 where there is none."""
    stops_N: NDArray[np.int64] | None = None

    @property
    def vectors_RD(self) -> Array:
        """Those of the only column."""
        return _only(self.columns)


class RowGroup(NamedTuple):
    """Rows that are read best together, since they lie so."""

    rows: range
    num_vectors: int
    """How many of them have a vector."""
    num_tokens: int
    """Of all of them."""


def _only(columns: Mapping[str, T]) -> T:
    if len(columns) != 1:
        raise UsageError(f"there are several columns ({', '.join(columns)}).", remedy="Take one of .columns by name.")
    return next(iter(columns.values()))


def open_dataset(path: str | Path) -> Dataset:
    """Open the dataset of a run folder, or the folder `dataset` itself; RunConflict where there is none.

    One whose index is lost, or was never made, is indexed in a temporary file, with a warning.
    """
    return Dataset(find_dataset(Path(path)))


class Dataset:
    """Holds open files and no vectors; pickles as the path that it was opened from."""

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout
        facts = _read_facts(layout)
        self._index = _open_index(layout, facts)
        self._vectors = VectorReader(layout.dataset, self._index, _digests_of(facts))
        self._shards = _open_shards(layout, self._index, facts) if self._index.has_vectors_in_shards else None
        self.columns = {column.name: column for column in self._index.columns}
        """Of vectors, by name."""

    def __reduce__(self) -> tuple[object, ...]:
        return Dataset, (self._layout,)

    def __repr__(self) -> str:
        columns = ", ".join(f"{name} {column.dimension}" for name, column in self.columns.items())
        return f"<Dataset {self._layout.dataset}: {len(self):,} rows; {columns}>"

    def __len__(self) -> int:
        """Rows: records, or with --pooling per_window their windows."""
        return self._index.num_rows

    def __iter__(self) -> Iterator[Record]:
        return map(self.row, range(len(self)))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(self._id(row) == name for row in self._index.candidates(name))

    def __getitem__(self, name: str) -> list[Record]:
        """Every row that has this id, in order; UnknownRecord, which is a KeyError, where none has."""
        if not isinstance(name, str):
            raise TypeError(f"an id is a str; for a place in the dataset, say .row({name!r})")
        found = [record for row in self._index.candidates(name) if (record := self.row(row)).id == name]
        if not found:
            raise UnknownRecord(f"{self._layout.dataset} has no id {name!r}.", remedy="`.ids` are all.")
        return found

    def by_ordinal(self, ordinal: int) -> list[Record]:
        """The row of a record of the input, or its rows where each is a window; UnknownRecord where there is none."""
        first = ordinal
        if self._index.has_windows:
            first = bisect_left(range(len(self)), ordinal, key=self._ordinal)
        found = []
        while 0 <= first < len(self) and self._ordinal(first) == ordinal:
            found.append(self.row(first))
            first += 1
        if not found:
            raise UnknownRecord(f"{self._layout.dataset} has no ordinal {ordinal}.", remedy="They count from 0.")
        return found

    def row(self, place: int) -> Record:
        """The row at a place, from 0."""
        if not 0 <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        this, behind = self._index.records(place, place + 1).tolist()
        sums, (ordinal, length, num_windows, id_bytes, status, *rest) = this[: len(SUMS)], this[len(SUMS) :]
        window = rest[:2] if self._index.has_windows else []
        text = self._index.text(sums[TEXT], behind[TEXT])
        return Record(
            ordinal,
            text[:id_bytes].decode("utf-8"),
            {name: self._vector(at, place, sums, behind) for at, name in enumerate(self.columns)},
            length,
            behind[TOKENS] - sums[TOKENS],
            num_windows,
            self._index.statuses[status],
            text[id_bytes:].decode("utf-8"),
            *(edge if edge >= 0 else None for edge in window),
        )

    def row_of_vector(self, number: int) -> int:
        """The row that has the vector with this number, when rows without one do not count."""
        if self.num_vectors == len(self):
            return number
        rows = range(len(self))
        return bisect_right(rows, number, key=lambda row: int(self._index.records(row, row)["vectors"][0])) - 1

    @property
    def num_vectors(self) -> int:
        """Rows that have a vector."""
        return int(self._index.groups["vectors"][-1])

    @property
    def num_tokens(self) -> int:
        """Of all rows."""
        return int(self._index.groups["tokens"][-1])

    @property
    def row_groups(self) -> list[RowGroup]:
        """All of the parts, in order."""
        edges = self._index.groups[["row", "vectors", "tokens"]].tolist()
        return [
            RowGroup(range(row, stop), num_vectors - vectors, num_tokens - tokens)
            for (row, vectors, tokens), (stop, num_vectors, num_tokens) in pairwise(edges)
        ]

    @property
    def ids(self) -> Iterator[str]:
        """All of them, in order, as often as they occur."""
        return (name for batch in self.batches(columns=()) for name in batch.ids_N)

    def batches(self, num_rows: int = ROW_GROUP_ROWS, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """All rows, so many at a time, with these columns of vectors, or all of them."""
        for start in range(0, len(self), num_rows):
            yield self.batch(range(start, start + num_rows), columns)

    def vectors(self, column: str | None = None) -> Array:
        """All vectors of a column, or of the only one, side by side in memory."""
        columns = self._numbers_of(None if column is None else [column])
        about = self._index.groups[-1]
        behind = about[[name for name, _ in SUMS]].item()
        return self._read(_only(columns), range(len(self)), (0,) * len(SUMS), behind)

    def batch(self, rows: range, columns: Sequence[str] | None = None) -> Batch:
        """Rows that stand side by side; those behind the last are left out, as in a slice."""
        rows = range(len(self))[rows.start : rows.stop]
        records = self._index.records(rows.start, rows.stop)
        sums, behind, records_N = records[0].tolist(), records[-1].tolist(), records[:-1]
        text = self._index.text(sums[TEXT], behind[TEXT])
        places_N = (records_N["text"] - sums[TEXT]).tolist()
        return Batch(
            ordinals_N=records_N["ordinal"].copy(),
            ids_N=[
                text[place : place + size].decode("utf-8")
                for place, size in zip(places_N, records_N["id_bytes"].tolist(), strict=True)
            ],
            columns={name: self._read(at, rows, sums, behind) for name, at in self._numbers_of(columns).items()},
            has_vector_N=np.diff(records["vectors"]) > 0,
            lengths_N=records_N["length"].copy(),
            num_tokens_N=np.diff(records["tokens"]),
            statuses_N=[self._index.statuses[status] for status in records_N["status"].tolist()],
            starts_N=records_N["start"].copy() if self._index.has_windows else None,
            stops_N=records_N["stop"].copy() if self._index.has_windows else None,
        )

    def _vector(self, column: int, row: int, sums: Sums, behind: Sums) -> Array | None:
        vectors_RD = self._read(column, range(row, row + 1), sums, behind)
        if not len(vectors_RD):
            return None
        return vectors_RD if self._index.columns[column].is_per_token else vectors_RD[0]

    def _read(self, column: int, rows: range, sums: Sums, behind: Sums) -> Array:
        if self._shards is not None:
            return self._shards.read(column, rows)
        what = TOKENS if self._index.columns[column].is_per_token else VECTORS
        return self._vectors.read(column, sums[what], behind[what])

    def _numbers_of(self, columns: Sequence[str] | None) -> dict[str, int]:
        """Of chosen columns; UsageError for one that the dataset has not."""
        known = {name: at for at, name in enumerate(self.columns)}
        if unknown := [name for name in columns or () if name not in known]:
            raise UsageError(f"{self._layout.dataset} has no column {unknown[0]}.", remedy=f"Say {', '.join(known)}.")
        return known if columns is None else {name: known[name] for name in columns}

    def _ordinal(self, row: int) -> int:
        return int(self._index.records(row, row)["ordinal"][0])

    def _id(self, row: int) -> str:
        record = self._index.records(row, row)[0]
        return self._index.text(int(record["text"]), int(record["text"] + record["id_bytes"])).decode("utf-8")


def _read_facts(layout: RunLayout) -> dict[str, Any]:
    try:
        return dict(json.loads(patiently(lambda: read_bytes(layout.dataset_facts), layout.dataset_facts)))
    except (IsADirectoryError, ValueError, TypeError) as error:
        raise RunConflict(f"{layout.dataset_facts}: damaged.", remedy="Gather again.") from error


def _digests_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """None of a version that wrote none."""
    try:
        return {str(name): str(part["sha256"]) for name, part in facts.get("parts", {}).items()}
    except (TypeError, KeyError, AttributeError):
        return {}


def _open_shards(layout: RunLayout, index: Index, facts: Mapping[str, Any]) -> ShardVectors:
    try:
        embedding = Embedding(**facts["embedding"])
        cut = (embedding.max_residues, embedding.stride)
        return ShardVectors(layout, index, Arrangement(embedding.outputs, facts["num_special_tokens"], *cut))
    except (KeyError, TypeError, ValueError) as error:
        raise RunConflict(f"{layout.dataset_facts}: damaged.", remedy="Gather again.") from error


def _open_index(layout: RunLayout, facts: Mapping[str, Any]) -> Index:
    try:
        index = patiently(lambda: Index(layout.dataset_index), layout.dataset_index)
        if index.num_bytes != facts["index"]["num_bytes"]:
            problem = "its index is another's"
        elif is_proven(layout.dataset_index, facts["index"].get("sha256")):
            return index
        else:
            problem = "its index is damaged"
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, KeyError):
        problem = "it has no index"
    except Damaged:
        problem = "its index is damaged"
    except TypeError as error:
        raise RunConflict(f"{layout.dataset_facts}: damaged.", remedy="Gather again.") from error
    if facts.get("layout") == "shards":
        raise RunConflict(
            f"{layout.dataset}: {problem}, and its vectors are in the outputs.",
            remedy=f"Remove {layout.dataset_index.name} where it is there, and gather again.",
        )
    warnings.warn(
        f"{layout.dataset}: {problem}; one is made in {tempfile.gettempdir()}, anew each time that it is opened. "
        f"Remove {layout.dataset_index.name} where it is there; then `hpc-embed gather` makes one to keep.",
        stacklevel=4,
    )
    return _passing_index(layout)


def _passing_index(layout: RunLayout) -> Index:
    """One that is gone with the process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.npz"
        try:
            with path.open("wb") as file, faults_of_content():
                write_index(layout.dataset, file, path.parent)
        except Damaged as error:
            raise RunConflict(
                f"{layout.dataset}: damaged ({error}).", remedy="`hpc-embed gather --check` tells which part is."
            ) from error
        return Index(path)
