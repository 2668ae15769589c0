"""Overlong records cut into windows that fit the model."""

# N = records, W = windows

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Windows(NamedTuple):
    """Slices of records, in residues, those of a record one after the other."""

    record_W: Ints
    starts_W: Ints
    lengths_W: Ints


def num_windows(lengths_N: Ints, max_residues: int, stride: int | None = None) -> Ints:
    """The fewest windows, side by side or `stride` apart, that hold records of these lengths."""
    number_N = -(-lengths_N // max_residues) if stride is None else 1 - (max_residues - lengths_N) // stride
    return np.maximum(1, number_N)


def split_windows(
    lengths_N: Ints, num_windows_N: Ints, max_residues: int | None = None, stride: int | None = None
) -> Windows:
    """Each record in so many windows side by side, their lengths equal to within one.

    Equal lengths rather than a short last one: every window then sees the most context it can. With a stride they
    are all of `max_residues`, and begin at most so far from each other.
    """
    record_W = np.repeat(np.arange(len(lengths_N)), num_windows_N)
    place_W = np.arange(len(record_W)) - np.repeat(np.cumsum(num_windows_N) - num_windows_N, num_windows_N)
    starts_W, stops_W = places(lengths_N[record_W], place_W, num_windows_N[record_W], max_residues, stride)
    return Windows(record_W, starts_W, stops_W - starts_W)


def places(
    length_W: Ints, place_W: Ints, number_W: Ints, max_residues: int | None, stride: int | None
) -> tuple[Ints, Ints]:
    """Where each window begins and ends: number `place` of `number` in a record of this length."""
    if stride is None or max_residues is None:
        return length_W * place_W // number_W, length_W * (place_W + 1) // number_W
    starts_W = np.maximum(length_W - max_residues, 0) * place_W // np.maximum(number_W - 1, 1)
    return starts_W, np.minimum(starts_W + max_residues, length_W)
