"""Memory that is used again: a page that is new to a process takes the kernel longer to give than us to fill."""

from __future__ import annotations

import mmap

import numpy as np

LARGEST_KEPT = (32 << 20) - 2 * mmap.PAGESIZE
"""glibc's own limit, less what it adds to a block."""


def keep_freed_memory() -> None:
    """Blocks that are freed serve whoever asks next, up to LARGEST_KEPT.

    glibc gives a block back to the system unless it has given back one as large before (mallopt(3), M_MMAP_THRESHOLD).
    So it gets one here, which is never filled. Nothing comes of it with another C library.
    """
    np.empty(LARGEST_KEPT, dtype=np.uint8)
