"""Pieces: what a task has finished so far, so that its next try goes on where it was.

Two live copies of one task may both leave pieces of the same windows; the first read counts.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hpc_embed.run import files
from hpc_embed.run.faults import patiently
from hpc_embed.run.layout import withdrawn_folder
from hpc_embed.run.vectors import Damaged, VectorFile, Vectors, VectorWriter

PATTERN = "piece-*.parquet"


class Pieces:
    """The pieces of one shard, made by runs of one fingerprint."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        self._num_published = 0
        self._metadata = {"fingerprint": fingerprint}

    def publish(self, rows: Vectors) -> None:
        """Make one more piece appear, even beside a twin that has finished the shard and cleans up."""
        self._num_published += 1
        path = self._folder / f"piece-{self._num_published:05d}-{uuid.uuid4().hex}.parquet"

        def write(file: BinaryIO) -> None:
            with VectorWriter(file, rows.vectors_ND.shape[1], self._metadata) as writer:
                writer.write(rows)

        for is_last in (False, False, True):  # it may take away the file, and then the folder
            try:
                files.make_folder(self._folder)
                files.write_whole(path, write)
                return
            except FileNotFoundError:
                if is_last:
                    raise

    def finished(self, dimension: int) -> set[int]:
        """Window keys that need not be done again; pieces that prove damaged or foreign are set aside.

        Raises EnvironmentFault where a piece cannot be read for now.
        """
        files.remove_leftovers(self._folder)
        keys: set[int] = set()
        for path in _pieces_in(self._folder):
            with suppress(FileNotFoundError):  # a twin finished the shard and cleaned up
                keys |= patiently(lambda path=path: self._keys_of(path, dimension), path)  # type: ignore[misc]
        return keys

    def _keys_of(self, path: Path, dimension: int) -> set[int]:
        judged = files.storage.status(path)
        try:
            file = VectorFile(path)
            if file.metadata == self._metadata and file.dimension == dimension:
                for _ in file:  # all of its content, so that what is counted as done can be read later
                    pass
                return set(file.windows().tolist())
        except Damaged:
            files.sha256_of_file(path)  # it can be read whole, so that is what it holds
        files.set_aside(path, withdrawn_folder(self._folder.parent), judged)
        return set()

    def files(self) -> Iterator[VectorFile]:
        """Every piece of this fingerprint; a window may be in two of them, see `each_window_once`."""
        for path in _pieces_in(self._folder):
            try:
                file = patiently(lambda path=path: VectorFile(path), path)  # type: ignore[misc]
            except FileNotFoundError:
                continue  # a twin finished the shard and cleaned up
            if file.metadata == self._metadata:
                yield file

    def clear(self) -> None:
        """Remove all pieces."""
        files.remove_tree(self._folder)


def each_window_once(pieces: Iterable[Iterable[Vectors]]) -> Iterator[Vectors]:
    """The rows of pieces, each a number of blocks, without those of windows that an earlier piece had."""
    seen: set[int] = set()
    for piece in pieces:
        here: set[int] = set()
        for block in piece:
            keys = block.windows_N.tolist()
            new_N = np.fromiter((key not in seen for key in keys), dtype=bool, count=len(keys))
            here.update(keys)
            if new_N.any():
                yield Vectors(block.windows_N[new_N], block.num_tokens_N[new_N], block.vectors_ND[new_N])
        seen |= here


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
