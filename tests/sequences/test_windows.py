"""How overlong records are cut: as few windows as hold them, of one length or a stride apart."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_embed.sequences.windows import num_windows, split_windows


@pytest.mark.parametrize(
    ("stride", "expected"),
    [
        (None, [1, 1, 1, 2, 2, 3, 10]),
        (10, [1, 1, 1, 2, 2, 3, 10]),
        (5, [1, 1, 1, 2, 3, 4, 19]),
        (4, [1, 1, 1, 2, 4, 4, 24]),
        (1, [1, 1, 1, 2, 11, 12, 91]),
    ],
)
def test_there_are_the_fewest_windows_that_hold_a_record(stride: int | None, expected: list[int]) -> None:
    assert num_windows(np.array([0, 1, 10, 11, 20, 21, 100]), 10, stride).tolist() == expected


def spans(lengths: list[int], most: int | None, stride: int | None = None) -> list[tuple[int, int, int]]:
    lengths_N = np.array(lengths)
    number_N = np.ones_like(lengths_N) if most is None else num_windows(lengths_N, most, stride)
    windows = split_windows(lengths_N, number_N, most, stride)
    columns = (windows.record_W, windows.starts_W, windows.starts_W + windows.lengths_W)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_windows_side_by_side_are_equal_to_within_one_and_leave_nothing_out() -> None:
    assert spans([7, 21, 10], 10) == [(0, 0, 7), (1, 0, 7), (1, 7, 14), (1, 14, 21), (2, 0, 10)]
    assert spans([11], 10) == [(0, 0, 5), (0, 5, 11)]
    assert spans([7, 5000], None) == [(0, 0, 7), (1, 0, 5000)]
    assert spans([7, 5000], None, 3) == [(0, 0, 7), (1, 0, 5000)]


def test_windows_with_a_stride_are_all_as_long_as_may_be_and_reach_both_ends() -> None:
    assert spans([7, 15, 21], 10, 5) == [
        (0, 0, 7),
        (1, 0, 10),
        (1, 5, 15),
        (2, 0, 10),
        (2, 3, 13),
        (2, 7, 17),
        (2, 11, 21),
    ]
    assert spans([10], 10, 5) == [(0, 0, 10)]


def test_a_record_may_be_left_out() -> None:
    windows = split_windows(np.array([5, 6, 7]), np.array([1, 0, 2]))
    assert windows.record_W.tolist() == [0, 2, 2]
    assert windows.starts_W.tolist() == [0, 0, 3]
    assert windows.lengths_W.tolist() == [5, 3, 4]
