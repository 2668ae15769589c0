"""Results on standard output: JSON for scripts, tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence


def print_json(content: Mapping[str, object] | Sequence[object], one_line: bool = False) -> None:
    """One JSON document, at once: its reader may be waiting for it."""
    print(json.dumps(content, indent=None if one_line else 1, ensure_ascii=False), flush=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table as wide as its content; plain text where the output is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console(file=sys.stdout, markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)
