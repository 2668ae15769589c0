"""One command at a time, by what the storage has: flock, POSIX locks, or else a file that only one process can make."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpc_embed.progress import note
from hpc_embed.run import files
from hpc_embed.run.storage import UNKNOWN
from hpc_embed.run.temporaries import is_ours, is_writer_alive, temporary_sibling

NO_LOCKS = (*UNKNOWN, errno.ENOLCK)
"""What storage answers that has none: Lustre mounted without `-o flock`, NFS without its lock service."""


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a lock file until the end of the block; False where another process has it.

    Where the storage has no locks, a crash leaves the file by which it is held. On the same machine the next
    command sees that its maker is dead and takes it; from another one it is told, since nobody can know.
    """
    with path.open("w") as file:
        try:
            files.storage.lock_file(file.fileno())
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            with _held_by_name(path.with_name(f"{path.name}-held")) as is_held:
                yield is_held
            return
        yield True


@contextmanager
def _held_by_name(path: Path) -> Iterator[bool]:
    is_held = _take(path)
    if not is_held and _is_makers_end_known(path):
        files.discard(path)
        is_held = _take(path)
    if not is_held:
        note(f"{path} is there: remove it if no such command is at work, since this storage has no locks.")
    try:
        yield is_held
    finally:
        if is_held:
            files.discard(path)


def _take(path: Path) -> bool:
    try:
        with files.new_file(path) as file:
            file.write(temporary_sibling(path).name.encode())
    except FileExistsError:
        return False
    return True


def _is_makers_end_known(path: Path) -> bool:
    try:
        maker = files.read_bytes(path).decode("utf-8", errors="replace")
    except OSError:
        return False
    return is_ours(maker) and not is_writer_alive(maker)
