"""What crashes left: temporary files that nobody writes any more."""

from __future__ import annotations

import stat
from pathlib import Path

from hpc_embed.run import files
from hpc_embed.run.temporaries import SECONDS_UNTIL_LOST, TEMPORARY, is_ours, is_writer_alive, temporary_sibling


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that crashes left in a folder.

    On this machine a crash is known by its process. Elsewhere a writer counts as dead after a day without a sign,
    by the clock of the folder's own file server; what a living one makes stays.
    """
    try:
        names = [name for name in files.storage.names(folder) if TEMPORARY.match(name)]
    except OSError:
        return
    for name in names:
        if is_ours(name) and is_writer_alive(name):
            continue
        if is_ours(name) or _seconds_silent(folder / name) > SECONDS_UNTIL_LOST:
            files.discard(folder / name)
            files.remove_tree(folder / name)


def _seconds_silent(path: Path) -> float:
    """Since anything of it was written, both times by the file server; 0 where that cannot be told."""
    touched = temporary_sibling(path.with_name("clock"))
    try:
        with files.new_file(touched):
            pass
        now = files.storage.status(touched).st_mtime
        times = [files.storage.status(path).st_mtime]
        if stat.S_ISDIR(files.storage.status(path).st_mode):
            times += [files.storage.status(path / name).st_mtime for name in files.storage.names(path)]
        return now - max(times)
    except OSError:
        return 0.0
    finally:
        files.discard(touched)
