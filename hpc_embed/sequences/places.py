"""Places in a source, by line, and what is to be said of them."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """A line that something is to be said of."""

    line: int
    """From 0."""
    id: str | None
    """Of the record whose header stands there; None for any other line."""
    words: str
    """What is wrong there."""
    remedy: str

    def of(self, source: str, num_lines_before: int) -> str:
        """Where it is, for an error message."""
        name = "" if self.id is None else f", {self.id or 'record without id'}"
        return f"{source}, line {self.line + num_lines_before + 1}{name}"

    def moved(self, num_lines: int) -> Place:
        """The same place, where so many lines more stand in front."""
        return self._replace(line=self.line + num_lines)
