"""A storage that writes down what it is asked, fails where it is told to, and forgets what was not synced.

Everything happens in real files. What a crash may take is kept beside them: the length that each file had when it
was last synced, and for each folder how to undo the names that have changed since it was.
"""

from __future__ import annotations

import errno
import io
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar, cast

from hpc_embed.run.storage import Storage

T = TypeVar("T")


class Crash(BaseException):
    """The machine is off from here on."""


class Fault(NamedTuple):
    """What goes wrong, once, at one operation."""

    at: int
    """Number of the operation, or of the reading."""
    kind: Literal["crash before", "crash after", "fails", "fails though done", "stays"]
    """The last: everything fails from there on, as if the server were away for good."""
    number: int = errno.EIO
    is_reading: bool = False


class Change(NamedTuple):
    """A name that changed, in these folders, and how it was before."""

    folders: tuple[Path, ...]
    undo: Callable[[], None]


@dataclass
class FaultyStorage(Storage):
    """One process's view of the disk."""

    graveyard: Path
    """A folder on the same file system, for what a crash may bring back."""
    fault: Fault | None = None
    before_each: Callable[[], None] = lambda: None
    """Called before each operation and reading, for those who order several writers."""
    operations: list[str] = field(default_factory=list)
    num_readings: int = 0
    is_off: bool = False
    has_crashed: bool = False
    dies_at: int | None = None
    """Everything ends before this operation."""
    changes: list[Change] = field(default_factory=list)
    synced_bytes: dict[int, int] = field(default_factory=dict)
    """By inode, for the files made here."""
    opened: list[BinaryIO] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def _do(self, what: str, path: Path, work: Callable[[], T]) -> T:
        self._die()
        self.before_each()
        with self.lock:
            number = len(self.operations)
            self.is_off = self.is_off or number == self.dies_at
            self._die()
            self.operations.append(f"{what} {path.name}")
            fault = self.fault if self.fault and not self.fault.is_reading else None
            is_here = fault is not None and (fault.at == number or (fault.kind == "stays" and fault.at < number))
            if is_here and fault:
                self._fail(fault, ("crash before", "fails", "stays"), path)
            done = work()
            if is_here and fault:
                self._fail(fault, ("crash after", "fails though done"), path)
            return done

    def _die(self) -> None:
        if self.is_off:
            raise Crash

    def _fail(self, fault: Fault, kinds: tuple[str, ...], path: Path) -> None:
        if fault.kind not in kinds:
            return
        if fault.kind.startswith("crash"):
            self.is_off = self.has_crashed = True
            raise Crash
        raise OSError(fault.number, os.strerror(fault.number), str(path))

    def _read(self, path: Path, work: Callable[[], T]) -> T:
        self.before_each()
        with self.lock:
            self._die()
            number, self.num_readings = self.num_readings, self.num_readings + 1
            fault = self.fault
            if fault and fault.is_reading and (fault.at == number or (fault.kind == "stays" and fault.at < number)):
                raise OSError(fault.number, os.strerror(fault.number), str(path))
            return work()

    # What writes.

    def create(self, path: Path) -> BinaryIO:
        def work() -> BinaryIO:
            file = super(FaultyStorage, self).create(path)
            self.opened.append(file)
            self.synced_bytes[os.fstat(file.fileno()).st_ino] = 0
            self._changed((path.parent,), lambda: self._take_away(path))
            return cast(BinaryIO, _File(self, path, file))

        return self._do("create", path, work)

    def sync(self, file: BinaryIO) -> None:
        ours = cast(_File, file)

        def work() -> None:
            ours.real.flush()
            status = os.fstat(ours.real.fileno())
            self.synced_bytes[status.st_ino] = status.st_size

        self._do("sync", ours.path, work)

    def close(self, file: BinaryIO) -> None:
        ours = cast(_File, file)
        ours.real.close()
        self._do("close", ours.path, lambda: None)

    def sync_folder(self, path: Path) -> None:
        def work() -> None:
            self.changes = [change for change in self.changes if path not in change.folders]

        self._do("sync folder", path, work)

    def rename(self, source: Path, target: Path) -> None:
        def work() -> None:
            before = self._keep(target)
            super(FaultyStorage, self).rename(source, target)

            def undo() -> None:
                target.rename(source)
                if before:
                    os.link(before, target)

            self._changed((source.parent, target.parent), undo)

        self._do("rename", target, work)

    def exchange(self, one: Path, other: Path) -> None:
        def work() -> None:
            super(FaultyStorage, self).exchange(one, other)
            self._changed((one.parent,), lambda: Storage.exchange(self, one, other))

        self._do("exchange", other, work)

    def link(self, source: Path, target: Path) -> None:
        def work() -> None:
            super(FaultyStorage, self).link(source, target)
            self._changed((target.parent,), lambda: self._take_away(target))

        self._do("link", target, work)

    def unlink(self, path: Path) -> None:
        def work() -> None:
            before = self._keep(path)
            super(FaultyStorage, self).unlink(path)
            self._changed((path.parent,), lambda: os.link(before, path) if before else None)

        self._do("unlink", path, work)

    def make_folder(self, path: Path) -> None:
        def work() -> None:
            super(FaultyStorage, self).make_folder(path)
            self._changed((path.parent,), lambda: self._take_away(path))

        self._do("make folder", path, work)

    def remove_folder(self, path: Path) -> None:
        def work() -> None:
            super(FaultyStorage, self).remove_folder(path)
            self._changed((path.parent,), path.mkdir)

        self._do("remove folder", path, work)

    def close_all(self) -> None:
        """Files that a crash left open."""
        for file in self.opened:
            file.close()
        self.is_off = True  # a writer that a crash left is closed, some time, by the collector

    # What reads.

    def open_to_read(self, path: Path) -> BinaryIO:
        file = self._read(path, lambda: super(FaultyStorage, self).open_to_read(path))
        self.opened.append(file)
        return file

    def read_at(self, file: BinaryIO, place: int, into: memoryview) -> int:
        return self._read(Path(file.name), lambda: super(FaultyStorage, self).read_at(file, place, into))

    def status(self, path: Path) -> os.stat_result:
        return self._read(path, lambda: super(FaultyStorage, self).status(path))

    def names(self, folder: Path) -> list[str]:
        return self._read(folder, lambda: super(FaultyStorage, self).names(folder))

    # What a crash takes.

    def lose(self, root: Path, *, contents: bool, names: bool, draw: random.Random | None = None) -> None:
        """Forget what was not synced: the ends of files, and changes of names, all or as the `draw` will have it.

        Names go from the last one backwards, so that what is left is a state in which the folder once was.
        """
        if names:
            number = draw.randint(0, len(self.changes)) if draw else len(self.changes)
            for change in reversed(self.changes[len(self.changes) - number :]):
                try:
                    change.undo()
                except (FileNotFoundError, FileExistsError, NotADirectoryError):
                    continue  # its folder is gone with a later loss
        if contents:
            for path in [path for path in root.rglob("*") if path.is_file()]:
                status = path.stat()
                if self.synced_bytes.get(status.st_ino, status.st_size) < status.st_size:
                    os.truncate(path, self.synced_bytes[status.st_ino])

    def _changed(self, folders: tuple[Path, ...], undo: Callable[[], None]) -> None:
        self.changes.append(Change(folders, undo))

    def _keep(self, path: Path) -> Path | None:
        """A second name for what is there, so that it can come back."""
        if not path.is_file():
            return None
        kept = self.graveyard / f"{len(list(self.graveyard.iterdir()))}"
        os.link(path, kept)
        return kept

    def _take_away(self, path: Path) -> None:
        path.rename(self.graveyard / f"{len(list(self.graveyard.iterdir()))}")


class _File(io.RawIOBase):
    """A file whose every write is an operation."""

    def __init__(self, storage: FaultyStorage, path: Path, real: BinaryIO) -> None:
        self.storage, self.path, self.real = storage, path, real

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        return self.storage._do("write", self.path, lambda: self.real.write(content))
