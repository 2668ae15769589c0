"""dataset-index.npz opened: a few reads of a few hundred bytes find an id among any number."""

from __future__ import annotations

import hashlib
import struct
import tokenize
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_embed.results.index import ENTRY, GROUP, OUTPUT, OUTPUT_GROUP, RECORD
from hpc_embed.results.windows import PLACE
from hpc_embed.run.faults import is_passing
from hpc_embed.run.placed import PlacedFile
from hpc_embed.run.vectors import Damaged
from hpc_embed.sequences.kernel import DIGEST_BYTES

NOT_AN_INDEX = (
    *(zipfile.BadZipFile, EOFError, LookupError, NotImplementedError, OverflowError, RuntimeError, ValueError),
    *(struct.error, tokenize.TokenError, AssertionError, OSError, SyntaxError, TypeError),
)
"""What the readers of a zip archive and of NumPy's headers raise for damaged ones."""
NUMBERS = {numbers: np.dtype(numbers) for numbers in ("<f2", "<f4", "<f8")}
"""Of vectors."""
HELD = ("groups", "places", "columns", "parts", "statuses", "outputs", "output_groups")
LENGTHS_AT, HEADER_BYTES = 26, 30
"""Of a member of a zip archive: its name's length and that of the field behind it, at the end of what is fixed."""


class Column(NamedTuple):
    """A column of vectors."""

    name: str
    dimension: int
    dtype: np.dtype[Any]
    is_per_token: bool


class OutputPlaces(NamedTuple):
    """An output that has vectors, as it was gathered."""

    num_bytes: int
    first_row_G: tuple[int, ...]
    first_byte_G: tuple[int, ...]


class Index:
    """The small arrays of an index are held, the others read where somebody asks."""

    def __init__(self, path: Path) -> None:
        """Raises Damaged for what is no index, OSError for what cannot be opened."""
        self._file = PlacedFile(path)
        self.num_bytes = self._file.num_bytes
        try:
            with zipfile.ZipFile(self._file.file) as archive:
                self._arrays = {info.filename.removesuffix(".npy"): _array(archive, info) for info in archive.filelist}
                held = {name: _held(archive, name) for name in HELD if name in self._arrays}
            self.has_vectors_in_shards = "window_places" in self._arrays
            """Whether they are in the outputs, and not in the parts."""
            self.num_rows = self._arrays["entries"].length
            self.groups, self.places_GC = held["groups"], held["places"]
            self.columns = [
                Column(str(name), int(dimension), NUMBERS[numbers], bool(is_per_token))
                for name, dimension, numbers, is_per_token in held["columns"].tolist()
            ]
            self.parts: dict[str, int] = dict(held["parts"].tolist())
            self.statuses: list[str] = held["statuses"].tolist()
            self._num_bits = (self._arrays["buckets"].length - 1).bit_length() - 1
            _expect(self._arrays["entries"].dtype == ENTRY)
            _expect(self._arrays["records"].dtype.descr[: len(RECORD)] == RECORD)
            _expect(self._arrays["records"].length == self.num_rows + 1)
            _expect(self.groups.dtype == GROUP)
            if self.has_vectors_in_shards:
                _expect(self._arrays["window_places"].dtype == PLACE)
                _expect(self._arrays["windows"].dtype == np.dtype("<i8"))
                _expect("windows" in (self._arrays["records"].dtype.names or ()))
                self._outputs, self._output_groups = held["outputs"], held["output_groups"]
                _expect((self._outputs.dtype, self._output_groups.dtype) == (OUTPUT, OUTPUT_GROUP))
            else:
                _expect(self.places_GC.shape == (len(self.groups) - 1, len(self.columns)))
        except NOT_AN_INDEX as error:
            if is_passing(error):
                raise
            raise Damaged(f"{path}: {type(error).__name__}") from error

    @property
    def has_windows(self) -> bool:
        """Whether a row is a window of a record, and not a record."""
        return "start" in (self._arrays["records"].dtype.names or ())

    @property
    def num_windows(self) -> int:
        """Of the plan; of a dataset that has its vectors in the outputs, and so are the next three."""
        return self._arrays["window_places"].length

    def windows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Keys; where a row's begin and those of the next is in the records."""
        return self._read("windows", start, stop - start)

    def window_places(self, key: int, count: int) -> NDArray[np.void]:
        """PLACE of some windows."""
        return self._read("window_places", key, count)

    def output(self, shard: int) -> OutputPlaces:
        """Where an output's rows lie."""
        (place,) = np.flatnonzero(self._outputs["shard"] == shard)
        start, stop = np.searchsorted(self._output_groups["shard"], (shard, shard + 1))
        groups = self._output_groups[start:stop]
        first_row_G, first_byte_G = (tuple(groups[name].tolist()) for name in ("first_row", "first_byte"))
        return OutputPlaces(int(self._outputs["num_bytes"][place]), first_row_G, first_byte_G[:-1])

    def candidates(self, name: str) -> list[int]:
        """The rows whose ids have the digest of this id: those that have it, and one in 10¹⁹ that has another."""
        digest = digest_of(name)
        start, stop = self._read("buckets", digest >> (64 - self._num_bits), 2).tolist()
        entries_N = self._read("entries", start, stop - start)
        rows: list[int] = entries_N["row"][entries_N["digest"] == digest].tolist()
        return rows

    def records(self, start: int, stop: int) -> NDArray[np.void]:
        """What some rows have, as RECORD, and one record more."""
        return self._read("records", start, stop - start + 1)

    def text(self, start: int, stop: int) -> bytes:
        """Ids and reasons; their places are in the records."""
        return self._read("text", start, stop - start).tobytes()

    def _read(self, name: str, first: int, count: int) -> NDArray[Any]:
        array = self._arrays[name]
        rows = np.empty(count, dtype=array.dtype)
        self._file.fill(rows, array.place + first * array.dtype.itemsize)
        return rows


def digest_of(name: str) -> int:
    """The first half of an id's digest."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8"), digest_size=DIGEST_BYTES).digest()[:8], "little")


def _expect(is_so: bool) -> None:
    """ValueError for an index that is not as ours are; no assert, which `python -O` would leave out."""
    if not is_so:
        raise ValueError("not an index of ours")


class _Array(NamedTuple):
    place: int
    dtype: np.dtype[Any]
    length: int


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Array:
    """Where the numbers of a member begin."""
    with archive.open(info) as member:
        _expect(np.lib.format.read_magic(member) == (1, 0))
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        behind_header = member.tell()
    assert archive.fp is not None
    archive.fp.seek(info.header_offset + LENGTHS_AT)
    lengths = struct.unpack("<HH", archive.fp.read(HEADER_BYTES - LENGTHS_AT))
    return _Array(info.header_offset + HEADER_BYTES + sum(lengths) + behind_header, dtype, shape[0])


def _held(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as member:
        array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        _expect(not member.read(1))  # it is at its end that its checksum is looked at
        return array
