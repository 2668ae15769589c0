"""A run folder that somebody else made may hold links to places that are none of its business."""

from __future__ import annotations

import stat

from hpc_embed.errors import RunConflict
from hpc_embed.run import files
from hpc_embed.run.faults import patiently
from hpc_embed.run.layout import RunLayout


def refuse_links(layout: RunLayout) -> None:
    """RunConflict where one of the run's own folders is a link: what is written or removed stays in the run folder.

    The run folder itself may be one.
    """
    for folder in (layout.shards, layout.outputs, layout.withdrawn, layout.work, layout.dataset):
        try:
            mode = patiently(lambda folder=folder: files.storage.status(folder), folder).st_mode  # type: ignore[misc]
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISLNK(mode):
            raise RunConflict(
                f"{folder} is a link, and would lead out of the run folder.",
                remedy="Put a folder in its place, or the whole run folder where there is room.",
            )
