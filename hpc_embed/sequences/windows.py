"""Overlong records cut into windows that fit the model."""

# N = records, W = windows

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Windows(NamedTuple):
    """Slices of records, in residues, those of a record side by side."""

    record_W: Ints
    starts_W: Ints
    lengths_W: Ints


def num_windows(lengths_N: Ints, max_residues: int) -> Ints:
    """The fewest windows of at most `max_residues` that hold records of these lengths."""
    return np.maximum(1, -(-lengths_N // max_residues))


def split_windows(lengths_N: Ints, num_windows_N: Ints) -> Windows:
    """Each record in so many windows side by side, their lengths equal to within one.

    Equal lengths rather than a short last one: every window then sees the most context it can.
    """
    record_W = np.repeat(np.arange(len(lengths_N)), num_windows_N)
    place_W = np.arange(len(record_W)) - np.repeat(np.cumsum(num_windows_N) - num_windows_N, num_windows_N)
    length_W, count_W = lengths_N[record_W], num_windows_N[record_W]
    starts_W = length_W * place_W // count_W
    return Windows(record_W, starts_W, length_W * (place_W + 1) // count_W - starts_W)
