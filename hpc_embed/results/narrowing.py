"""Vectors in a narrower type of numbers, or word of the first that it does not hold."""

# R = vectors, D = dimension

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray


class DoesNotHold(ValueError):
    """A vector that would no longer be one: a number that becomes infinite, or all of them zero."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row


def narrowed(vectors_RD: NDArray[np.floating], dtype: DTypeLike) -> NDArray[np.floating]:
    """The same vectors in another type, rounded; DoesNotHold for the first that it cannot hold."""
    target = np.dtype(dtype)
    if vectors_RD.dtype == target:
        return vectors_RD
    with np.errstate(over="ignore", under="ignore"):
        rounded_RD: NDArray[np.floating] = vectors_RD.astype(target)
    is_held_R = np.isfinite(rounded_RD).all(axis=1) & (rounded_RD.any(axis=1) | ~vectors_RD.any(axis=1))
    if not is_held_R.all():
        row = int(np.argmin(is_held_R))
        raise DoesNotHold(row, _problem(vectors_RD[row], rounded_RD[row]))
    return rounded_RD


def _problem(vector_D: NDArray[np.floating], rounded_D: NDArray[np.floating]) -> str:
    if not rounded_D.any():
        return f"its largest number is {np.abs(vector_D).max():.3g}, and {rounded_D.dtype} makes all of them 0"
    number = vector_D[np.argmin(np.isfinite(rounded_D))]
    return (
        f"its number {number:,.6g} does not fit {rounded_D.dtype}, which ends at {np.finfo(rounded_D.dtype).max:,.0f}"
    )
