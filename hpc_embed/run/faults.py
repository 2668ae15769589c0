"""Faults that pass: what a file server answers while it restarts says nothing about the bytes that it holds."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from hpc_embed.errors import EnvironmentFault, is_full_disk, no_permission

PAUSES_SECONDS: tuple[float, ...] = (0.2, 1.0, 4.0, 8.0)
"""Between tries: a server that is failing over answers again in seconds."""
LASTING = (
    *(errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EXDEV, errno.EINVAL, errno.ENOTSUP, errno.EBADF),
)
"""Answers that waiting does not change."""

T = TypeVar("T")


def is_passing(error: BaseException) -> bool:
    """True for a fault of the system that may pass: EIO, ESTALE, EACCES, EMFILE, want of memory and their like.

    An OSError without a number is pyarrow's, about content.
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, OSError) and error.errno is not None and error.errno not in LASTING


def is_of_the_storage(error: BaseException) -> bool:
    """True for what a user mends outside of the program: a fault that may pass, or a read-only file system."""
    return is_passing(error) or (isinstance(error, OSError) and error.errno == errno.EROFS)


def patiently(work: Callable[[], T], place: object) -> T:
    """What `work` returns; a passing fault is waited out with growing pauses.

    Raises EnvironmentFault for one that stays, and any other fault at once.
    """
    for pause in PAUSES_SECONDS:
        try:
            return work()
        except (OSError, MemoryError) as error:
            if not is_passing(error):
                raise
        time.sleep(pause)
    try:
        return work()
    except (OSError, MemoryError) as error:
        if not is_passing(error):
            raise
        if isinstance(error, PermissionError):
            raise no_permission(error, place) from error
        raise EnvironmentFault(
            f"{place}: cannot be read or written ({reason(error)}).",
            remedy="Nothing was removed; the same command goes on once the storage answers.",
        ) from error


def reason(error: BaseException) -> str:
    """In a line: the system's own words, else the first of the error's."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """A full disk, which what writes tells of without a path, is told with one."""
    try:
        yield
    except OSError as error:
        if is_full_disk(error) and error.filename is None:
            error.filename = str(path)
        raise
