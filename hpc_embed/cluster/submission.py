"""Submissions: which array element has which shards, written down when the array is submitted."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from hpc_embed.errors import RunConflict
from hpc_embed.run.files import write_json
from hpc_embed.run.layout import RunLayout


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One array of one `submit`; the list of shards is frozen at launch."""

    job: str
    """Slurm's id of the array."""
    tasks: tuple[tuple[int, ...], ...]
    """Shards of each element."""
    gather_job: str
    """Slurm's id of the gather job that waits for it, empty for none."""

    def write(self, folder: Path) -> None:
        """Publish it as `array-JOB.json`."""
        write_json(folder / f"array-{self.job}.json", asdict(self))


def read_submissions(layout: RunLayout) -> list[Submission]:
    """Every array submitted for a run so far, oldest first."""
    paths = sorted(layout.submissions.glob("array-*.json"), key=lambda path: (path.stat().st_mtime, path.name))
    return [_read(path) for path in paths]


def _read(path: Path) -> Submission:
    content = json.loads(path.read_text(encoding="utf-8"))
    tasks = tuple(tuple(task) for task in content["tasks"])
    return Submission(job=content["job"], tasks=tasks, gather_job=content["gather_job"])


@contextmanager
def submitting(layout: RunLayout) -> Iterator[None]:
    """Hold the run folder for one `submit` at a time; RunConflict where another is at it."""
    layout.submissions.mkdir(exist_ok=True)
    with (layout.submissions / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunConflict(
                f"{layout.root}: another `hpc-embed submit` is at work.", remedy="Wait for it, then look at status."
            ) from error
        yield
