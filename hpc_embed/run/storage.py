"""What a run asks of its file system, one operation a method. Tests put one in its place that fails and forgets."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from pathlib import Path
from typing import BinaryIO, cast

AT_FDCWD = -100
RENAME_EXCHANGE = 2
ZEROS = 1 << 20
UNKNOWN = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems answer to what they do not know."""
CANNOT_EXCHANGE = (*UNKNOWN, errno.EXDEV)
"""What file systems answer that cannot exchange two folders in one step: NFS, some that are stacked."""


class Storage:
    """The real thing. Every method raises OSError as the system call does."""

    def create(self, path: Path) -> BinaryIO:
        """A new file, opened to write; its mode is the user's umask, so that a group can read it."""
        return path.open("xb")

    def sync(self, file: BinaryIO) -> None:
        """Force it to storage through the descriptor that wrote it: only that one hears of earlier errors."""
        file.flush()
        os.fsync(file.fileno())

    def close(self, file: BinaryIO) -> None:
        file.close()

    def sync_folder(self, path: Path) -> None:
        """Force the names in a folder to storage, where the file system can."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in UNKNOWN:
                raise
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def exchange(self, one: Path, other: Path) -> None:
        """Each gets the other's name in one step; OSError with one of CANNOT_EXCHANGE where that is unknown."""
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "renameat2"):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(one))
        if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(one))

    def lock_file(self, descriptor: int) -> None:
        """Lock a file until it is closed; BlockingIOError where another process has it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def take_room(self, file: BinaryIO, num_bytes: int) -> None:
        """Let a new file have so many bytes, all 0, for which there is room from then on."""
        try:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        except OSError as error:
            if error.errno not in UNKNOWN:
                raise
            for start in range(0, num_bytes, ZEROS):
                file.write(bytes(min(ZEROS, num_bytes - start)))

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def make_folder(self, path: Path) -> None:
        path.mkdir()

    def remove_folder(self, path: Path) -> None:
        path.rmdir()

    def open_to_read(self, path: Path) -> BinaryIO:
        return cast(BinaryIO, path.open("rb"))

    def read_at(self, file: BinaryIO, place: int, into: memoryview) -> int:
        """Bytes from a place on, whoever else reads the file; how many came, fewer than there is room for perhaps."""
        return os.preadv(file.fileno(), [into], place)

    def status(self, path: Path) -> os.stat_result:
        """Of the thing itself: a link is not followed."""
        return path.lstat()

    def names(self, folder: Path) -> list[str]:
        """What is in a folder, sorted; asking for the whole list makes a file server look again."""
        return sorted(os.listdir(folder))  # noqa: PTH208
