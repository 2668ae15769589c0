"""Memory that is used again: a page that is new to a process takes the kernel longer to give than us to fill."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of mallopt(3)."""
LARGEST_KEPT = 32 << 20
"""To which glibc would come by itself, block by block."""


def keep_freed_memory() -> None:
    """What is freed serves whoever asks next, in any thread of this process.

    glibc would give large blocks back at once, and keep a heap for each thread. Without glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in (
        (M_MMAP_THRESHOLD, LARGEST_KEPT),
        (M_TRIM_THRESHOLD, 2 * LARGEST_KEPT),
        (M_ARENA_MAX, 1),
    ):
        mallopt(parameter, value)
