"""Results on standard output: JSON for scripts; tables and lines as wide as the terminal for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from hpc_embed.screen import fitted, printable_lines, width_of


def print_json(content: Mapping[str, object] | Sequence[object], one_line: bool = False) -> None:
    """One JSON document, at once: its reader may be waiting for it."""
    print(json.dumps(content, indent=None if one_line else 1, ensure_ascii=False), flush=True)


def print_line(text: str) -> None:
    """A line, on a narrow terminal several."""
    print(fitted(text, sys.stdout))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table, without headings where they are ()."""
    print(table_text(headings, rows, sys.stdout))


def table_text(
    headings: Sequence[str], rows: Iterable[Sequence[object]], stream: TextIO, widths: Sequence[int] = ()
) -> str:
    """A table as `stream` shows it: columns of at least `widths`, cells folded at the edge of a terminal."""
    from rich.console import Console
    from rich.table import Table

    content = [[printable_lines(str(cell)) for cell in row] for row in rows]
    console = Console(file=stream, width=width_of(stream), markup=False, highlight=False)
    style = "" if console.no_color else "bold"
    table = Table(box=None, pad_edge=False, show_header=bool(headings), header_style=style)
    for number in range(len(headings or content[0])):
        heading = headings[number] if headings else ""
        table.add_column(heading, overflow="fold", min_width=widths[number] if number < len(widths) else None)
    for row in content:
        table.add_row(*row)
    with console.capture() as shown:
        console.print(table)
    return "\n".join(line.rstrip() for line in shown.get().splitlines())
