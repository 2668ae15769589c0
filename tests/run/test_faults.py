"""Which faults pass, and what they are called."""

from __future__ import annotations

import errno
import os

import pytest

from hpc_embed.run.faults import is_of_the_storage, is_passing, reason


def fault(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "passes", "is_storage"),
    [
        (fault(errno.EIO), True, True),
        (fault(errno.ESTALE), True, True),
        (fault(errno.EACCES), True, True),
        (MemoryError(), True, True),
        (fault(errno.EROFS), False, True),
        (fault(errno.ENOSPC), False, False),
        (fault(errno.ENOENT), False, False),
        (OSError("of pyarrow"), False, False),
        (ValueError("content"), False, False),
    ],
)
def test_a_fault_that_passes_says_nothing_of_the_content(error: Exception, passes: bool, is_storage: bool) -> None:
    assert (is_passing(error), is_of_the_storage(error)) == (passes, is_storage)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (fault(errno.EIO), "Input/output error"),
        (OSError("first\nsecond"), "first"),
        (ValueError("of what"), "of what"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_reason_is_one_line(error: Exception, words: str) -> None:
    assert reason(error) == words
