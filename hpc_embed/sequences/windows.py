"""Overlong records cut into windows that fit the model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Window(NamedTuple):
    """A slice of a record, in residues."""

    start: int
    stop: int


def split_windows(length: int, max_residues: int | None, stride: int | None = None) -> list[Window]:
    """The fewest windows of at most `max_residues`, side by side, their lengths equal to within one.

    Equal lengths rather than a short last one: every window then sees the most context it can. With a stride they
    are all of `max_residues`, and begin at most so far from each other.
    """
    if max_residues is None or length <= max_residues:
        return [Window(0, length)]
    number = -(-length // max_residues) if stride is None else 1 - (max_residues - length) // stride
    starts_W, stops_W = places(
        np.full(number, length), np.arange(number), np.full(number, number), max_residues, stride
    )
    return list(map(Window, starts_W.tolist(), stops_W.tolist()))


def places(
    length_W: Ints, place_W: Ints, number_W: Ints, max_residues: int | None, stride: int | None
) -> tuple[Ints, Ints]:
    """Where each window begins and ends: number `place` of `number` in a record of this length."""
    if stride is None or max_residues is None:
        return length_W * place_W // number_W, length_W * (place_W + 1) // number_W
    starts_W = np.maximum(length_W - max_residues, 0) * place_W // np.maximum(number_W - 1, 1)
    return starts_W, np.minimum(starts_W + max_residues, length_W)
