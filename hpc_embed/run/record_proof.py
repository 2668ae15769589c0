"""records.parquet proven by the digest that the plan has of it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hpc_embed.errors import RunConflict
from hpc_embed.run import files
from hpc_embed.run.faults import patiently
from hpc_embed.run.files import sha256_of_file
from hpc_embed.run.plan import Plan
from hpc_embed.run.shards import MADE_ANEW

NOT_A_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def refuse_false_records(plan: Plan, path: Path) -> None:
    """RunConflict where records.parquet is missing or not the plan's; without a digest there its rows are counted."""
    try:
        if not plan.records_sha256:
            is_whole = patiently(lambda: _num_rows(path), path) == plan.totals.num_records
        else:
            is_whole = patiently(lambda: sha256_of_file(path), path) == plan.records_sha256
    except NOT_A_FILE as error:
        raise RunConflict(f"{path} is missing.", remedy=MADE_ANEW) from error
    if not is_whole:
        raise RunConflict(f"{path}: damaged, or of another plan.", remedy=MADE_ANEW)


def _num_rows(path: Path) -> int | None:
    with files.storage.open_to_read(path) as file:
        try:
            return int(pq.ParquetFile(file).metadata.num_rows)
        except (pa.ArrowException, ValueError):
            return None
