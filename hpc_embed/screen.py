"""How wide a terminal is, and text that fits it."""

from __future__ import annotations

import os
import shutil
import textwrap
from typing import TextIO

UNBOUNDED = 10_000


def width_of(stream: TextIO) -> int:
    """A terminal's, or that of COLUMNS; elsewhere a line stays whole, for grep."""
    return shutil.get_terminal_size().columns if stream.isatty() or os.environ.get("COLUMNS") else UNBOUNDED


def fitted(text: str, stream: TextIO) -> str:
    """The lines of `text`, those that are too long as several."""
    width = width_of(stream)
    return "\n".join(
        textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        if len(line) > width
        else line
        for line in text.splitlines()
    )
