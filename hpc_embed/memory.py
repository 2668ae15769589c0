"""Memory that is used again: a page that is new to a process takes the kernel longer to give than us to fill.

What glibc does with a block that is freed depends on its size (mallopt(3)); with another C library nothing is done.
"""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

LARGEST_KEPT = (32 << 20) - 2 * mmap.PAGESIZE
"""glibc's own limit, less what it adds to a block."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""glibc's names for its settings."""


def keep_freed_memory() -> None:
    """Blocks that are freed serve whoever asks next, up to LARGEST_KEPT.

    glibc gives a block back to the system unless it has given back one as large before. So it gets one here, which is
    never filled.
    """
    np.empty(LARGEST_KEPT, dtype=np.uint8)


def keep_all_freed_memory() -> None:
    """Blocks of any size stay with this process: for one whose large arrays come again and again."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
