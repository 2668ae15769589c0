"""Overlong records cut into windows that fit the model."""

from __future__ import annotations

import itertools
from typing import NamedTuple


class Window(NamedTuple):
    """A slice of a record, in residues."""

    start: int
    stop: int


def split_windows(length: int, max_residues: int | None) -> list[Window]:
    """The fewest windows of at most `max_residues`, side by side, their lengths equal to within one.

    Equal lengths rather than a short last one: every window then sees the most context it can.
    """
    if max_residues is None or length <= max_residues:
        return [Window(0, length)]
    num_windows = -(-length // max_residues)
    edges = [length * i // num_windows for i in range(num_windows + 1)]
    return [Window(start, stop) for start, stop in itertools.pairwise(edges)]
