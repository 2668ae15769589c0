"""A column of the user's own table, for records that are named by their ids: `metadata.tsv:family`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from hpc_embed.errors import BadInput, UsageError
from hpc_embed.report.colours import NOTHING
from hpc_embed.run.faults import reason

MOST_CHARACTERS = 80
"""Of one value that is shown."""


class Column(NamedTuple):
    """Where it is."""

    path: Path
    name: str


def parse_column(text: str) -> Column:
    """FILE:COLUMN; UsageError for anything else."""
    path, _, name = text.rpartition(":")
    if not path or not name:
        raise UsageError(f"--colour-by {text}: not FILE:COLUMN.", remedy="Say metadata.tsv:family.")
    return Column(Path(path), name)


def read_values(column: Column, ids_N: list[str]) -> list[str]:
    """The value for each id, NOTHING for an id that the table does not have. Memory is that of these ids.

    Ids stand in the column `id`, or in the first. Raises UsageError where there is no such column, and BadInput for
    what is no table, or one that knows none of the ids.
    """
    found = dict.fromkeys(ids_N, NOTHING)
    knows_one = False
    with _rows(column.path) as rows:
        headings = next(rows, [])
        if column.name not in headings:
            raise UsageError(
                f"--colour-by {column.path}: no column {column.name}.", remedy=f"It has {', '.join(headings[:20])}."
            )
        id_at, value_at = headings.index("id") if "id" in headings else 0, headings.index(column.name)
        for row in rows:
            if len(row) > max(id_at, value_at) and row[id_at] in found:
                found[row[id_at]] = row[value_at].strip()[:MOST_CHARACTERS]
                knows_one = True
    if not knows_one and ids_N:
        raise BadInput(
            f"{column.path}: none of the records that the report shows is in its column {headings[id_at]}.",
            remedy="Ids are the first words of the FASTA headers.",
        )
    return [found[name] for name in ids_N]


@contextmanager
def _rows(path: Path) -> Iterator[Iterator[list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield csv.reader(file, delimiter=_delimiter(file))
    except (OSError, ValueError, csv.Error) as error:
        raise BadInput(
            f"{path}: cannot be read as a table ({reason(error)}).", remedy="Give tab- or comma-separated UTF-8."
        ) from error


def _delimiter(file: TextIO) -> str:
    headings = file.readline()
    file.seek(0)
    return "\t" if "\t" in headings else ","
