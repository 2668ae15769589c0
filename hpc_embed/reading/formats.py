"""The forms that a dataset can be exported in, each a writer of blocks with bounded memory."""

# N = records of a block, R = their vectors, D = dimension

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from hpc_embed.errors import EnvironmentFault, UsageError

HEADER_ALIGNMENT = 8
SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16"}


class Contents(NamedTuple):
    """What is exported, known before anything is written."""

    column: str
    is_per_token: bool
    dimension: int
    dtype: str
    num_records: int
    num_rows: int


class Block(NamedTuple):
    """Some records side by side, and the vectors of those that have any."""

    ordinals_N: NDArray[np.int64]
    ids_N: list[str]
    lengths_N: NDArray[np.int64]
    statuses_N: list[str]
    num_rows_N: NDArray[np.int64]
    vectors_RD: NDArray[np.floating]


class Writer(Protocol):
    """Takes blocks in order; leaving it finishes its file."""

    def __init__(self, folder: Path, contents: Contents) -> None: ...

    def write(self, block: Block) -> None:
        """Add records."""

    def __enter__(self) -> Writer: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Closing:
    """Closes its file on leaving."""

    _file: Any

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class NumpyWriter(_Closing):
    """vectors.npy, [R, D]: np.load(…, mmap_mode="r") reads no more than what is used."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        self._file = (folder / "vectors.npy").open("wb")
        shape = (contents.num_rows, contents.dimension)
        header = {"descr": np.dtype(contents.dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, block: Block) -> None:
        """Add rows."""
        self._file.write(block.vectors_RD.tobytes())


class SafetensorsWriter(_Closing):
    """vectors.safetensors with one tensor, `embedding` [R, D]."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        self._file = (folder / "vectors.safetensors").open("wb")
        num_bytes = contents.num_rows * contents.dimension * np.dtype(contents.dtype).itemsize
        tensor = {
            "dtype": SAFETENSORS_NAMES[contents.dtype],
            "shape": [contents.num_rows, contents.dimension],
            "data_offsets": [0, num_bytes],
        }
        header = json.dumps({"embedding": tensor}).encode("utf-8")
        header += b" " * (-len(header) % HEADER_ALIGNMENT)
        self._file.write(len(header).to_bytes(8, "little") + header)

    def write(self, block: Block) -> None:
        """Add rows."""
        self._file.write(block.vectors_RD.tobytes())


class Hdf5Writer(_Closing):
    """vectors.h5 with a data set for each record, named by its id, as UniProt and bio_embeddings publish them.

    A slash would make a group: it becomes _. What then has a name that is taken gets __2, __3, … behind it. The
    attributes hold the id as it was.
    """

    def __init__(self, folder: Path, contents: Contents) -> None:
        self._file = _imported("h5py").File(folder / "vectors.h5", "w", track_order=True)
        self._is_per_token = contents.is_per_token
        self._repeats: Counter[str] = Counter()

    def write(self, block: Block) -> None:
        """Add a data set for each record that has a vector."""
        row = 0
        columns = (block.ordinals_N.tolist(), block.ids_N, block.lengths_N.tolist(), block.num_rows_N.tolist())
        for ordinal, name, length, num_rows in zip(*columns, strict=True):
            if not num_rows:
                continue
            rows = block.vectors_RD[row : row + num_rows]
            made = self._file.create_dataset(self._free_name(name), data=rows if self._is_per_token else rows[0])
            made.attrs["original_id"] = name
            made.attrs["ordinal"], made.attrs["length"] = ordinal, length
            row += num_rows

    def _free_name(self, name: str) -> str:
        plain = name.replace("/", "_").replace("\0", "_")
        plain = plain if plain.strip(".") else f"_{plain}"
        free = plain
        while free in self._file:
            self._repeats[plain] += 1
            free = f"{plain}__{self._repeats[plain] + 1}"
        return free


class TsvWriter(_Closing):
    """vectors.tsv, a line for each vector; a record without one has a line of empty cells."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        self._is_per_token = contents.is_per_token
        place = [("position", pa.int64())] if contents.is_per_token else []
        numbers = [(f"d{at}", pa.from_numpy_dtype(contents.dtype)) for at in range(contents.dimension)]
        self._schema = pa.schema(
            [("ordinal", pa.int64()), ("id", pa.string()), ("status", pa.string()), *place, *numbers]
        )
        options = pyarrow.csv.WriteOptions(delimiter="\t", quoting_style="needed")
        self._file = pyarrow.csv.CSVWriter(folder / "vectors.tsv", self._schema, write_options=options)

    def write(self, block: Block) -> None:
        """Add lines, numbers as short as they may be without loss."""
        lines_N = np.maximum(block.num_rows_N, 1)
        record_L = np.repeat(np.arange(len(lines_N)), lines_N)
        position_L = np.arange(len(record_L)) - (np.cumsum(lines_N) - lines_N)[record_L]
        is_empty_L = (block.num_rows_N == 0)[record_L]
        vectors_LD = np.zeros((len(record_L), block.vectors_RD.shape[1]), dtype=block.vectors_RD.dtype)
        vectors_LD[~is_empty_L] = block.vectors_RD
        columns = [pa.array(block.ordinals_N[record_L])]
        columns += [pa.array(names).take(pa.array(record_L)) for names in (block.ids_N, block.statuses_N)]
        if self._is_per_token:
            columns.append(pa.array(position_L, mask=is_empty_L))
        columns += [pa.array(np.ascontiguousarray(column_L), mask=is_empty_L) for column_L in vectors_LD.T]
        self._file.write_table(pa.Table.from_arrays(columns, schema=self._schema))


class FaissWriter:
    """vectors.faiss, a flat index of L2 distances whose ids are the ordinals; faiss holds it in memory."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        if contents.is_per_token:
            raise UsageError("--to faiss: an index wants one vector a record.", remedy="Export a pooled dataset.")
        self._faiss = _imported("faiss")
        self._index = self._faiss.IndexIDMap2(self._faiss.IndexFlatL2(contents.dimension))
        self._path = folder / "vectors.faiss"

    def write(self, block: Block) -> None:
        """Add vectors, in float32 as faiss has them."""
        ordinals_R = np.repeat(block.ordinals_N, block.num_rows_N)
        self._index.add_with_ids(np.ascontiguousarray(block.vectors_RD, dtype=np.float32), ordinals_R)

    def __enter__(self) -> FaissWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._faiss.write_index(self._index, str(self._path))


def _imported(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        package = {"faiss": "faiss-cpu"}.get(module, module)
        raise EnvironmentFault(f"{module} is not installed.", remedy=f"pip install {package}") from error


FORMATS: dict[str, type[Writer]] = {
    "npy": NumpyWriter,
    "h5": Hdf5Writer,
    "safetensors": SafetensorsWriter,
    "tsv": TsvWriter,
    "faiss": FaissWriter,
}
