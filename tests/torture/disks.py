"""Real file systems that run full or turn read-only under a run; needs root, to mount them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpc_embed.errors import HpcEmbedError
from hpc_embed.run import faults
from tests.torture.enumeration import Undisturbed
from tests.torture.small_run import SmallRun


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(truth: Undisturbed, folder: Path, step_kibibytes: int = 4) -> int:
    """A disk that is a little larger at each try, until the run fits; how often it was full."""
    num_full, size = 0, 12
    with disk(folder, f"{size}k") as small:
        run = SmallRun(small)
        while True:
            try:
                run.all_of_it()
                break
            except (OSError, HpcEmbedError) as error:
                causes = [error, error.__cause__, error.__context__]
                assert any(isinstance(each, OSError) and each.errno == 28 for each in causes), repr(error)
                num_full, size = num_full + 1, size + step_kibibytes
                subprocess.run(["mount", "-o", f"remount,size={size}k", str(small)], check=True)
        assert run.dataset() == truth.dataset
    return num_full


def turn_read_only(truth: Undisturbed, folder: Path) -> None:
    """Between embedding and gathering, and once more after the shards are there."""
    with disk(folder, "16m") as small:
        run = SmallRun(small)
        run.embed()
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        try:
            run.all_of_it()
        except (OSError, HpcEmbedError) as error:
            assert faults.is_of_the_storage(error) or isinstance(error, HpcEmbedError)
        else:
            raise AssertionError("a read-only disk was written")
        subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
        run.all_of_it()
        assert run.dataset() == truth.dataset
