"""A file that is read at places. Read and not mapped: what was mapped counts as resident, and a fault of the
storage in it is a signal that ends the process instead of an error.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_embed.errors import RunConflict
from hpc_embed.run import files
from hpc_embed.run.faults import patiently


class PlacedFile:
    """A file open for reading, closed with its last reference."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = patiently(lambda: files.storage.open_to_read(path), path)
        self.num_bytes = os.fstat(self.file.fileno()).st_size

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()

    def fill(self, array: NDArray[Any], place: int) -> None:
        """Read from a byte on. EnvironmentFault where the storage does not give it, RunConflict where the file ends
        before.
        """
        left = array.reshape(-1).view(np.uint8)
        while len(left):
            num_read = patiently(lambda: files.storage.read_at(self.file, place, left.data), self.path)  # noqa: B023
            if not num_read:
                raise RunConflict(f"{self.path} is shorter than it was.", remedy="See `hpc-embed gather --check`.")
            left, place = left[num_read:], place + num_read
