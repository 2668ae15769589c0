"""The errors that a user can cause, each with the exit code that tells its kind."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path


class HpcEmbedError(Exception):
    """A fault with a place, a problem and a remedy; printed as one line, without a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return " ".join(f"{self.message} {self.remedy}".split())

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.remedy)


def _rebuild(kind: type[HpcEmbedError], message: str, remedy: str) -> HpcEmbedError:
    return kind(message, remedy=remedy)


class UsageError(HpcEmbedError):
    """A flag or a setting is wrong."""

    exit_code = 2


class UnknownRecord(UsageError, KeyError):
    """A dataset has no such id, or no such ordinal."""


class BadInput(HpcEmbedError):
    """The FASTA is wrong, or is not FASTA."""

    exit_code = 3


class RunConflict(HpcEmbedError):
    """The run folder holds something else, or something broken."""

    exit_code = 4


class EnvironmentFault(HpcEmbedError):
    """This machine lacks something: a GPU, weights, a package, space."""

    exit_code = 5


FULL_DISK_REMEDY = "Make room; the same command goes on from the last piece."


def is_full_disk(error: BaseException) -> bool:
    """True where there is no space, or no quota, left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def cannot_import(error: ImportError) -> EnvironmentFault:
    """A package that is missing or broken; PYTHONPATH, which a module of another Python may have set, is named."""
    if path := os.environ.get("PYTHONPATH"):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return EnvironmentFault(
            f"{in_one_line(error)}. PYTHONPATH={path} stands before this Python's own packages.",
            remedy=f"If that is not for Python {version}, `unset PYTHONPATH` and do this again.",
        )
    return EnvironmentFault(f"{in_one_line(error)}.", remedy="Install hpc-embed anew, or try `hpc-embed doctor`.")


AT_THE_LIMIT = EnvironmentFault(
    "this user may start no more processes or threads here (`ulimit -u`).",
    remedy="Give fewer --workers, or end others; the same command goes on from there.",
)


def is_at_the_limit(error: BaseException) -> bool:
    """True where the system gives no more threads or processes."""
    text = str(error)
    is_thread = isinstance(error, RuntimeError) and "start new thread" in text
    return is_thread or (isinstance(error, BlockingIOError) and error.errno == errno.EAGAIN and not error.filename)


class Incomplete(HpcEmbedError):
    """The work ended with shards or records that failed."""

    exit_code = 6


class Interrupted(HpcEmbedError):
    """Somebody asked the work to stop; what was done is kept."""

    exit_code = 130
    signal_number = 0
    """The signal that asked for it."""


def no_permission(error: PermissionError, place: object = ".") -> EnvironmentFault:
    """Whose file it is; a run folder that several users share needs a group and an umask."""
    place = Path(str(error.filename or place))
    owner = ""
    with suppress(OSError, KeyError):
        owner = next(f" ({path} belongs to {path.owner()})" for path in (place, *place.parents) if path.exists())
    return EnvironmentFault(
        f"{place}: permission denied{owner}.", remedy="docs/slurm.md tells how several users share a run folder."
    )


def in_one_line(error: BaseException) -> str:
    """The kind of an error of somebody else's, and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The beginning of a remedy, `Did you mean model? `; empty where nothing is near."""
    close = get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]}? " if close else ""
