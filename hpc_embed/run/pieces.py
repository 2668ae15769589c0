"""Pieces: what a task has finished so far, so that its next try goes on where it was.

The name of a piece has the digest of its content, which is proven whenever vectors are taken from it. Two live copies
of one task may both leave pieces of the same windows; the first read counts.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from hpc_embed.progress import note
from hpc_embed.run import files
from hpc_embed.run.faults import patiently
from hpc_embed.run.hashed import digest_in_name
from hpc_embed.run.layout import withdrawn_folder
from hpc_embed.run.leftovers import remove_leftovers
from hpc_embed.run.rows import RowReader, ranges
from hpc_embed.run.vectors import ROW_GROUP_ROWS, Damaged, RowPlaces, VectorFile, Vectors, VectorWriter

PATTERN = "piece-*.parquet"
_WINDOW = np.dtype(
    [("key", "<i8"), ("source", "<i8"), ("first_row", "<i8"), ("num_rows", "<i8"), ("num_tokens", "<i4")]
)


class Pieces:
    """The pieces of one shard, made by runs of one fingerprint."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        self._num_published = 0
        self._metadata = {"fingerprint": fingerprint}

    def publish(self, rows: Vectors) -> None:
        """Make one more piece appear, even beside a twin that has finished the shard and cleans up."""
        self._num_published += 1
        path = self._folder / f"piece-{self._num_published:05d}.parquet"

        def write(file: BinaryIO) -> None:
            with VectorWriter(file, rows.vectors_ND.shape[1], self._metadata) as writer:
                writer.write(rows)

        for is_last in (False, False, True):  # it may take away the file, and then the folder
            try:
                files.make_folder(self._folder)
                files.write_whole(path, write, by_digest=True)
                return
            except FileNotFoundError:
                if is_last:
                    raise

    def finished(self, dimension: int) -> set[int]:
        """Window keys that need not be done again; pieces that prove damaged or foreign are set aside.

        Raises EnvironmentFault where a piece cannot be read for now.
        """
        remove_leftovers(self._folder)
        keys: set[int] = set()
        for path in _pieces_in(self._folder):
            with suppress(FileNotFoundError):  # a twin finished the shard and cleaned up
                keys |= patiently(lambda path=path: self._keys_of(path, dimension), path)  # type: ignore[misc]
        return keys

    def _keys_of(self, path: Path, dimension: int) -> set[int]:
        file = self._proven(path, dimension)
        return set(file.windows().tolist()) if file else set()

    def _proven(self, path: Path, dimension: int | None = None) -> VectorFile | None:
        """A piece that is what it was when it was written; None for one that is not, or is foreign, and set aside."""
        judged = files.storage.status(path)
        try:
            file = VectorFile(path)
            is_ours = file.metadata == self._metadata and dimension in (None, file.dimension)
            if is_ours and _is_as_written(path, file):
                return file
        except (Damaged, IsADirectoryError):
            if not stat.S_ISDIR(judged.st_mode):
                files.sha256_of_file(path)  # it can be read whole, so that is what it holds
        files.set_aside(path, withdrawn_folder(self._folder.parent), judged)
        note(f"{path} is damaged, or of another plan: set aside, and its windows are embedded again.")
        return None

    def files(self) -> Iterator[VectorFile]:
        """Every piece that is proven; a window may be in two of them, see `in_key_order`."""
        for path in _pieces_in(self._folder):
            with suppress(FileNotFoundError):  # a twin finished the shard and cleaned up
                if file := patiently(lambda path=path: self._proven(path), path):  # type: ignore[misc]
                    yield file

    def clear(self) -> None:
        """Remove all pieces."""
        files.remove_tree(self._folder)


def _is_as_written(path: Path, file: VectorFile) -> bool:
    """By the digest in its name; a piece of a version that had none there is decoded, all of it."""
    if digest := digest_in_name(path):
        return files.sha256_of_file(path) == digest
    for _ in file:
        pass
    return True


def in_key_order(finished: Iterable[VectorFile | Vectors]) -> Iterator[Vectors]:
    """The rows of pieces and of what is in memory, each window's once and from the first that has it, by ascending
    key: whoever merges many outputs then reads each from its begin to its end.

    Raises FileNotFoundError where a twin takes a piece away meanwhile.
    """
    sources: list[RowPlaces | Vectors] = []
    found = [np.empty(0, dtype=_WINDOW)]
    dimension = 0
    for number, one in enumerate(finished):
        if isinstance(one, VectorFile):
            keys_R, num_tokens_R, dimension = one.windows(), one.num_tokens(), one.dimension
            sources.append(one.places())
        else:
            keys_R, num_tokens_R, dimension = one.windows_N, one.num_tokens_N, one.vectors_ND.shape[1]
            sources.append(one)
        keys_W, first_row_W, num_rows_W = np.unique(keys_R, return_index=True, return_counts=True)
        found.append(np.empty(len(keys_W), dtype=_WINDOW))
        columns = (keys_W, number, first_row_W, num_rows_W, num_tokens_R[first_row_W])
        for name, column in zip(_WINDOW.names or (), columns, strict=True):
            found[-1][name] = column
    windows_W = np.concatenate(found)
    windows_W = windows_W[np.unique(windows_W["key"], return_index=True)[1]]  # stable: the first source's
    first_row_W = np.cumsum(windows_W["num_rows"]) - windows_W["num_rows"]
    reader = RowReader()
    for block_W in np.split(windows_W, np.flatnonzero(np.diff(first_row_W // ROW_GROUP_ROWS)) + 1):
        if len(block_W):
            yield _rows_of(block_W, sources, dimension, reader)


def _rows_of(
    windows_W: NDArray[np.void], sources: Sequence[RowPlaces | Vectors], dimension: int, reader: RowReader
) -> Vectors:
    num_rows_W = windows_W["num_rows"]
    vectors_ND = np.empty((int(num_rows_W.sum()), dimension), dtype=np.float32)
    source_N, row_N = np.repeat(windows_W["source"], num_rows_W), ranges(windows_W["first_row"], num_rows_W)
    for number in np.unique(source_N).tolist():
        source, places_n = sources[number], np.flatnonzero(source_N == number)
        if isinstance(source, Vectors):
            vectors_ND[places_n] = source.vectors_ND[row_N[places_n]]
        else:
            vectors_nD = np.empty((len(places_n), dimension), dtype=np.float32)
            reader.fill(vectors_nD, source, row_N[places_n])
            vectors_ND[places_n] = vectors_nD
    return Vectors(np.repeat(windows_W["key"], num_rows_W), np.repeat(windows_W["num_tokens"], num_rows_W), vectors_ND)


def num_windows_in_pieces(folder: Path) -> int:
    """Windows in a shard's pieces, from their keys alone; those that vanish meanwhile do not count."""
    total = 0
    for path in _pieces_in(folder):
        with suppress(OSError, Damaged):
            total += len(np.unique(VectorFile(path).windows()))
    return total


def seconds_of_pieces(folder: Path) -> float:
    """Seconds from the oldest to the newest piece; 0 for fewer than two."""
    times = []
    for path in _pieces_in(folder):
        with suppress(OSError):
            times.append(files.storage.status(path).st_mtime)
    return max(times) - min(times) if times else 0.0


def _pieces_in(folder: Path) -> list[Path]:
    """Sorted; none where the folder is not there."""
    try:
        names = patiently(lambda: files.storage.names(folder), folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in names if fnmatch(name, PATTERN)]
