"""Absence is not believed at once: a file that another node has just published can be invisible for a minute.

NFS keeps in mind that a name was absent until the folder's attributes expire, 30 to 60 seconds (nfs(5), lookupcache
and acdirmax). Listing the folder makes it look again.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from hpc_embed.progress import note
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.mounts import LOCAL, file_system_of
from hpc_embed.run.plan import Plan
from hpc_embed.run.survey import survey
from hpc_embed.units import format_seconds

WAIT_SECONDS = 90.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 10.0


def wait_for_markers(plan: Plan, layout: RunLayout, wait_seconds: float | None) -> None:
    """Look again, up to `wait_seconds`, for shards that seem not to be done; those that failed are not waited for."""
    started, pause = time.monotonic(), FIRST_PAUSE_SECONDS
    seconds = usual_wait_seconds(layout.root) if wait_seconds is None else wait_seconds
    missing = _num_missing(plan, layout)
    if missing and seconds:
        note(f"{missing} shards are not there yet; looking again for up to {format_seconds(seconds)} …")
    while missing and (left := seconds - (time.monotonic() - started)) > 0:
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        missing = _num_missing(plan, layout)


def _num_missing(plan: Plan, layout: RunLayout) -> int:
    """Shards that, by the names in the folders, are neither done nor known to have failed."""
    found = survey(layout, len(plan.shards))
    return len(plan.shards) - len(found.done | found.failed)


def usual_wait_seconds(folder: Path) -> float:
    """90 where another node may have written: in a job, or on a file system that nodes share."""
    is_shared = "SLURM_JOB_ID" in os.environ or file_system_of(folder) not in LOCAL
    return WAIT_SECONDS if is_shared else 0.0
