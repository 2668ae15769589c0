"""What the names in a run's folders say of all its shards: a few listings, and no file opened."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from hpc_embed.run import files
from hpc_embed.run.faults import patiently
from hpc_embed.run.layout import RunLayout, shard_folders

NAME = re.compile(r"shard-(\d{5,})(\.parquet|\.done\.json|\.failed\.json|)")


class Survey(NamedTuple):
    """Shards by what is there of them."""

    done: frozenset[int]
    """With output and marker, as plan left no others there; whether they are whole is gather's to prove."""
    failed: frozenset[int]
    """With a file that says what went wrong."""
    begun: frozenset[int]
    """With a folder for pieces."""


def survey(layout: RunLayout, num_shards: int) -> Survey:
    """List the folders of a run. Listing also makes a file server look again for what was absent a moment ago."""
    found: dict[str, set[int]] = {"": set(), ".parquet": set(), ".done.json": set(), ".failed.json": set()}
    for root in (layout.outputs, layout.work):
        for folder in shard_folders(root, num_shards):
            for name in _names(folder):
                if match := NAME.fullmatch(name):
                    found[match[2]].add(int(match[1]))
    return Survey(
        frozenset(found[".done.json"] & found[".parquet"]), frozenset(found[".failed.json"]), frozenset(found[""])
    )


def _names(folder: Path) -> list[str]:
    try:
        return patiently(lambda: files.storage.names(folder), folder)
    except FileNotFoundError:
        return []
