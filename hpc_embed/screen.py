"""How wide a terminal is, and text that fits it and does nothing to it."""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from typing import TextIO

UNBOUNDED = 10_000
UNPRINTABLE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def width_of(stream: TextIO) -> int:
    """A terminal's, or that of COLUMNS; elsewhere a line stays whole, for grep."""
    return shutil.get_terminal_size().columns if stream.isatty() or os.environ.get("COLUMNS") else UNBOUNDED


def printable(text: str) -> str:
    r"""One line of text; bytes that are no UTF-8 and control characters but for tabs stand as `\xNN`."""
    if text.isprintable():
        return text
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return UNPRINTABLE.sub(_number, text)


def _number(found: re.Match[str]) -> str:
    number = ord(found.group())
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def is_utf8(text: str) -> bool:
    """False for the name of a file in other bytes."""
    return not re.search("[\ud800-\udfff]", text)


def printable_lines(text: str) -> str:
    """Text whose lines are printable."""
    return "\n".join(map(printable, text.split("\n")))


def fitted(text: str, stream: TextIO) -> str:
    """The lines of `text`, those that are too long as several."""
    width = width_of(stream)
    return "\n".join(
        textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        if len(line) > width
        else line
        for line in printable_lines(text).splitlines()
    )
