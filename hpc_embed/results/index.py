"""The index of a dataset: the rows of each id, and where in the parts the numbers of each row are.

dataset-index.npz, arrays that numpy.load opens too. Whoever looks for one id reads a few hundred bytes of them:

    entries   first half of the digest of an id, and a row that has it; in order
    buckets   where the entries begin whose digests begin alike, and behind them all their number
    records   what each row has; one more behind the last, so that the difference to the next is what a row has
    text      ids, each with its reason behind it
    groups    the row groups, and one more behind the last
    places    [groups, columns] where in its part the first number is; -1 where only Parquet's reader finds it
    columns, parts, statuses

Of a dataset that leaves its vectors in the outputs it has besides:

    windows   keys of each row's windows; a record has where they begin
    window_places  in which output a window is, its first row there, and its tokens
    outputs, output_groups  the files, and the first row and first byte of each of their row groups
"""

# N = rows of a row group, or entries of a bucket

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hpc_embed.planning.spill import Rows, Spill, bucket_of, buckets_for, by_bucket
from hpc_embed.results.parts import Part
from hpc_embed.results.windows import PLACE, Windows
from hpc_embed.run import files
from hpc_embed.run.faults import naming_full_disk, patiently
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.pages import first_byte
from hpc_embed.run.parquet import metadata_of, numbers_of_a_vector
from hpc_embed.sequences.kernel import digests_of

ENTRY = np.dtype([("digest", "<u8"), ("row", "<i8")])
SUMS = [("text", "<i8"), ("vectors", "<i8"), ("tokens", "<i8")]
"""What all rows before have: bytes of text, vectors (of one a row), and tokens."""
RECORD = [*SUMS, ("ordinal", "<i8"), ("length", "<i8"), ("num_windows", "<i4"), ("id_bytes", "<i4"), ("status", "<i4")]
OF_A_WINDOW = [("start", "<i8"), ("stop", "<i8")]
OF_SHARDS = [("windows", "<i8")]
OUTPUT = np.dtype([("shard", "<i8"), ("num_bytes", "<i8")])
OUTPUT_GROUP = np.dtype([("shard", "<i8"), ("first_row", "<i8"), ("first_byte", "<i8")])
"""With one more behind the last of each output, whose first row is the number of all."""
GROUP = np.dtype([*SUMS, ("row", "<i8"), ("part", "<i4"), ("number", "<i4")])
COLUMN = np.dtype([("name", "<U64"), ("dimension", "<i8"), ("numbers", "<U8"), ("is_per_token", "?")])
PART = np.dtype([("name", "<U32"), ("num_bytes", "<i8")])
ENTRIES_PER_BUCKET = 64
ENTRIES_IN_MEMORY = 1 << 20
MEMORY_BYTES = 64 << 20


class DraftedIndex(NamedTuple):
    """An index that is written and has not its name yet, and what dataset.json tells of it."""

    draft: files.Draft
    part: Part


def draft_index(layout: RunLayout, dataset: Path, windows: Windows | None = None) -> DraftedIndex:
    """Index the parts in a folder, with the windows whose vectors they leave in the outputs."""
    scratch = files.temporary_sibling(layout.root / "indexing")
    files.make_folders(scratch)
    num_rows = 0

    def write(file: BinaryIO) -> None:
        nonlocal num_rows
        num_rows = write_index(dataset, file, scratch, windows)

    try:
        with naming_full_disk(scratch):
            draft = files.write_draft(layout.dataset_index, write)
        return DraftedIndex(draft, Part(num_rows, files.storage.status(draft.path).st_size, draft.sha256))
    finally:
        files.remove_tree(scratch)


def publish_index(layout: RunLayout) -> Part:
    """Index the dataset as it lies there; what dataset.json tells of the index."""
    drafted = draft_index(layout, layout.dataset)
    files.put(drafted.draft.path, layout.dataset_index)
    return drafted.part


def write_index(dataset: Path, file: IO[bytes], scratch: Path, windows: Windows | None = None) -> int:
    """Index the parts in a folder, in bounded memory; how many rows they have.

    Scratch files take what the ids and their entries do.
    """
    paths = sorted(dataset.glob("part-*.parquet"))
    num_rows: int = sum(pq.read_metadata(path).num_rows for path in paths)
    schema = pq.read_schema(paths[0])
    of_a_window = OF_A_WINDOW if "start" in schema.names else []
    record = np.dtype([*RECORD, *of_a_window, *(OF_SHARDS if windows else [])])
    columns = _columns_of_shards(windows) if windows else vector_columns(schema)
    spill = Spill(scratch, "entries", ENTRY, buckets_for(num_rows, ENTRIES_IN_MEMORY), MEMORY_BYTES)
    with (
        zipfile.ZipFile(file, "w") as archive,
        (scratch / "text").open("w+b") as text,
        (scratch / "windows").open("w+b") as keys,
    ):
        walk = _Walk(columns, record, spill, text, keys)
        with _member(archive, "records", record, num_rows + 1) as member:
            for number, path in enumerate(paths):
                for records_N in walk.records_of(number, path):
                    member.write(records_N.tobytes())
            member.write(walk.behind().tobytes())
        _copy_member(archive, "text", np.dtype("u1"), text)
        if windows:
            _copy_member(archive, "windows", np.dtype("<i8"), keys)
            _write_windows(archive, windows)
        _write_entries(archive, spill, num_rows)
        parts = [(path.name, path.stat().st_size) for path in paths]
        for name, rows in {
            "groups": np.append(walk.groups, walk.sums),
            "places": np.array(walk.places, dtype="<i8").reshape(len(walk.groups), 0 if windows else len(columns)),
            "columns": walk.columns,
            "parts": np.array(parts, dtype=PART),
            "statuses": np.array(list(walk.statuses), dtype="<U16"),
        }.items():
            with _member(archive, name, rows.dtype, *rows.shape) as member:
                member.write(rows.tobytes())
    return num_rows


def vector_columns(schema: pa.Schema) -> NDArray[np.void]:
    """The columns of vectors, as COLUMN; ValueError where the file does not tell how long they are."""
    found, metadata = [], metadata_of(schema)
    for field in schema:
        if field.name.startswith("embedding"):
            is_per_token = pa.types.is_nested(field.type.value_type)
            vector = field.type.value_type if is_per_token else field.type
            numbers = np.dtype(vector.value_type.to_pandas_dtype()).str
            found.append((field.name, numbers_of_a_vector(vector, metadata), numbers, is_per_token))
    return np.array(found, dtype=COLUMN)


def _columns_of_shards(windows: Windows) -> NDArray[np.void]:
    outputs = windows.outputs
    dimension = windows.dimension // outputs.width
    found = [(output.name, dimension, "<f4", output.row is None) for output in outputs.columns]
    return np.array(found, dtype=COLUMN)


class _Walk:
    """Goes through the parts once: writes the text, deals the entries, and keeps what it needs of each row group."""

    def __init__(
        self, columns: NDArray[np.void], record: np.dtype[Any], spill: Spill, text: BinaryIO, keys: BinaryIO
    ) -> None:
        self.columns = columns
        self.sums = np.zeros((), dtype=GROUP)
        """Up to here."""
        self.groups: list[Rows] = []
        self.places: list[list[int]] = []
        self.statuses: dict[str, int] = {}
        self._record, self._spill, self._text, self._keys = record, spill, text, keys
        self._num_keys = 0

    def records_of(self, number: int, path: Path) -> Iterator[Rows]:
        """Of the next part, a row group after the other."""
        with patiently(lambda: files.storage.open_to_read(path), path) as file:
            part = pq.ParquetFile(file)
            apart = [name for name in part.schema_arrow.names if name not in self.columns["name"]]
            for group in range(part.num_row_groups):
                self.sums["part"], self.sums["number"] = number, group
                self.groups.append(self.sums.copy())
                records_N = self._records(part.read_row_group(group, columns=apart))
                self.places.append([*self._places(file, part, group)])
                yield records_N

    def behind(self) -> Rows:
        """The record behind the last."""
        record = np.zeros((), dtype=self._record)
        for name, _ in SUMS:
            record[name] = self.sums[name]
        if "windows" in (self._record.names or ()):
            record["windows"] = self._num_keys
        return record

    def _records(self, table: pa.Table) -> Rows:
        ids, reasons = (pa.concat_arrays(table[name].chunks).fill_null("") for name in ("id", "reason"))
        text, tokens_N = pc.binary_join_element_wise(ids, reasons, ""), table["num_tokens"].to_numpy()
        records_N = np.empty(len(table), dtype=self._record)
        sizes = {"text": np.asarray(pc.binary_length(text)), "vectors": tokens_N > 0, "tokens": tokens_N}
        for name, size_N in sizes.items():
            records_N[name] = self.sums[name] + np.cumsum(size_N, dtype=np.int64) - size_N
            self.sums[name] += size_N.sum()
        for name in {"ordinal", "length", "num_windows", "start", "stop"} & {*table.column_names}:
            records_N[name] = table[name].fill_null(-1).to_numpy()
        records_N["id_bytes"] = pc.binary_length(ids)
        named = pc.dictionary_encode(pa.concat_arrays(table["status"].chunks))
        codes = [self.statuses.setdefault(name, len(self.statuses)) for name in named.dictionary.to_pylist()]
        records_N["status"] = np.array(codes, dtype=np.int32)[named.indices.to_numpy()]
        if content := text.buffers()[2]:
            self._text.write(content.slice(0, int(sizes["text"].sum())))
        if "windows" in (self._record.names or ()):
            windows = pa.concat_arrays(table["windows"].chunks)
            counts_N = windows.value_lengths().to_numpy()
            records_N["windows"] = self._num_keys + np.cumsum(counts_N, dtype=np.int64) - counts_N
            self._num_keys += int(counts_N.sum())
            self._keys.write(windows.flatten().to_numpy().astype("<i8").tobytes())
        self._deal(ids)
        return records_N

    def _deal(self, ids: pa.StringArray) -> None:
        entries_N = np.empty(len(ids), dtype=ENTRY)
        entries_N["digest"] = digests_of(ids)["high"]
        entries_N["row"] = np.arange(len(ids)) + self.sums["row"]
        self.sums["row"] += len(ids)
        self._spill.add(by_bucket(bucket_of(entries_N["digest"], self._spill.num_buckets), entries_N))

    def _places(self, file: BinaryIO, part: pq.ParquetFile, group: int) -> Iterator[int]:
        """Of each column in the row group that has just been walked through."""
        if "windows" in (self._record.names or ()):  # the numbers are in the outputs
            return
        leaves = [part.schema.column(at).path.split(".")[0] for at in range(len(part.schema))]
        for column in self.columns:
            count = "tokens" if column["is_per_token"] else "vectors"
            num_bytes = (self.sums[count] - self.groups[-1][count]) * vector_bytes(column)
            chunk = part.metadata.row_group(group).column(leaves.index(column["name"]))
            yield first_byte(file, chunk, int(num_bytes))


def vector_bytes(column: np.void) -> int:
    """Of one vector."""
    return int(column["dimension"]) * np.dtype(str(column["numbers"])).itemsize


def _write_entries(archive: zipfile.ZipFile, spill: Spill, num_rows: int) -> None:
    num_buckets = max(spill.num_buckets, buckets_for(num_rows, ENTRIES_PER_BUCKET))
    counts_B = np.zeros(num_buckets + 1, dtype="<i8")
    with _member(archive, "entries", ENTRY, num_rows) as member:
        for bucket in range(spill.num_buckets):
            entries_N = spill.take(bucket)
            entries_N = entries_N[np.argsort(entries_N["digest"], kind="stable")]
            found, counts = np.unique(bucket_of(entries_N["digest"], num_buckets), return_counts=True)
            counts_B[found + 1] = counts
            member.write(entries_N.tobytes())
    with _member(archive, "buckets", counts_B.dtype, len(counts_B)) as member:
        member.write(np.cumsum(counts_B).tobytes())


def _write_windows(archive: zipfile.ZipFile, windows: Windows) -> None:
    with _member(archive, "window_places", PLACE, windows.num_windows) as member:
        for start in range(0, windows.num_windows, ENTRIES_IN_MEMORY):
            stop = min(start + ENTRIES_IN_MEMORY, windows.num_windows)
            member.write(windows.places_U[np.arange(start, stop)].tobytes())
    outputs = [(shard, places.path.stat().st_size) for shard, places in windows.files.items()]
    groups = [
        (shard, row, byte)
        for shard, places in windows.files.items()
        for row, byte in zip(places.first_row_G, (*places.first_byte_G, 0), strict=True)
    ]
    for name, rows in (("outputs", np.array(outputs, OUTPUT)), ("output_groups", np.array(groups, OUTPUT_GROUP))):
        with _member(archive, name, rows.dtype, len(rows)) as member:
            member.write(rows.tobytes())


def _copy_member(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], scratch: BinaryIO) -> None:
    with _member(archive, name, dtype, scratch.tell() // dtype.itemsize) as member:
        scratch.seek(0)
        shutil.copyfileobj(scratch, member, files.CHUNK_BYTES)


@contextmanager
def _member(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], *shape: int) -> Iterator[IO[bytes]]:
    """An array of the archive, to write its rows; equal content is equal bytes."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        yield file
