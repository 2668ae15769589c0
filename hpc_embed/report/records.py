"""What the records are: their lengths, and why some have no vector."""

# N = records looked at

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hpc_embed.errors import RunConflict
from hpc_embed.report.facts import RunFacts
from hpc_embed.run import files
from hpc_embed.run.faults import is_passing, reason
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.shards import MADE_ANEW

MOST_RECORDS = 1 << 20
"""Of more, evenly spread row groups are looked at."""
MOST_EXAMPLES = 20
WITHOUT_VECTOR = ("skipped", "failed")


class Group(NamedTuple):
    """A row group of a Parquet file."""

    path: Path
    number: int
    num_rows: int
    num_bytes: int
    """Of the columns asked for, unpacked."""


class Example(NamedTuple):
    """A record without a vector."""

    id: str
    status: str
    reason: str


class Records(NamedTuple):
    """What was seen."""

    lengths_N: NDArray[np.int64]
    reasons: Counter[tuple[str, str]]
    """Records without a vector by status and reason."""
    examples: list[Example]


class Description(NamedTuple):
    """What records.parquet knows of a record and the dataset does not."""

    text: str
    source: int
    """Which input file."""


def look_at_records(facts: RunFacts) -> Records:
    """From the dataset, or before there is one, and where its rows are windows, from what was planned."""
    is_by_record = facts.is_gathered and not facts.plan.embedding.outputs.is_per_window
    paths = sorted(facts.layout.dataset.glob("part-*.parquet")) if is_by_record else [facts.layout.records]
    groups = row_groups(paths, ["length"])
    num_rows = sum(group.num_rows for group in groups)
    most = max(1, len(groups) * MOST_RECORDS // max(num_rows, 1))
    if len(groups) > most:
        groups = [groups[at] for at in np.linspace(0, len(groups) - 1, most).astype(int)]
    lengths: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    seen = Records(lengths[0], Counter(), [])
    for table in read_groups(groups, ["id", "length", "status", "reason"]):
        lengths.append(table["length"].to_numpy())
        without = table.filter(pc.is_in(table["status"], value_set=pa.array(WITHOUT_VECTOR))).to_pylist()
        seen.reasons.update((row["status"], row["reason"] or "") for row in without)
        room = MOST_EXAMPLES - len(seen.examples)
        seen.examples.extend(Example(row["id"], row["status"], row["reason"] or "") for row in without[:room])
    return seen._replace(lengths_N=np.concatenate(lengths))


def describe_records(records: Path, ordinals_N: Sequence[int]) -> list[Description]:
    """Of a few records, in the order asked for; only the row groups that hold them are read."""
    groups = row_groups([records], ["source"])
    ends = np.cumsum([group.num_rows for group in groups])
    places_N = np.searchsorted(ends, np.asarray(ordinals_N), side="right")
    found: dict[int, Description] = {}
    for place in sorted(set(places_N.tolist())):
        wanted = sorted({ordinal for ordinal, at in zip(ordinals_N, places_N, strict=True) if at == place})
        first = int(ends[place]) - groups[place].num_rows
        for table in read_groups([groups[place]], ["description", "source"]):
            rows = table.take([ordinal - first for ordinal in wanted]).to_pylist()
            descriptions = [Description(row["description"] or "", row["source"]) for row in rows]
            found.update(zip(wanted, descriptions, strict=True))
    return [found[ordinal] for ordinal in ordinals_N]


def row_groups(paths: Sequence[Path], columns: Sequence[str]) -> list[Group]:
    """All of the files', from their footers."""
    groups = []
    for path in paths:
        with opened(path) as file:
            metadata = file.metadata
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            chunks = [group.column(at) for at in range(group.num_columns)]
            sizes = [one.total_uncompressed_size for one in chunks if one.path_in_schema.split(".")[0] in columns]
            groups.append(Group(path, number, group.num_rows, sum(sizes)))
    return groups


def read_groups(groups: Sequence[Group], columns: Sequence[str]) -> Iterator[pa.Table]:
    """One after the other."""
    for group in groups:
        with opened(group.path) as file:
            table = file.read_row_group(group.number, columns=list(columns))
        yield table


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """RunConflict for what is missing or no Parquet; OSError where it cannot be read for now."""
    try:
        source = files.storage.open_to_read(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise RunConflict(f"{path} is missing.", remedy=MADE_ANEW) from error
    with source as content:
        try:
            yield pq.ParquetFile(content)
        except (OSError, pa.ArrowException) as error:
            if is_passing(error) or (isinstance(error, OSError) and error.errno is not None):
                raise
            is_records = path.name == RunLayout(path.parent).records.name
            remedy = MADE_ANEW if is_records else "`hpc-embed gather --check` tells what of a dataset is whole."
            raise RunConflict(f"{path}: damaged ({reason(error)}).", remedy=remedy) from error
