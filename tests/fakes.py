"""What stands in the place of something that no healthy machine provokes, or that only shows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hpc_embed.run.storage import Storage


class Failing(Storage):
    """Readings of files with this end, or one of these, fail so many times."""

    def __init__(self, end: str | tuple[str, ...], make: Callable[[Path], BaseException], times: int = 10**9) -> None:
        self.end, self.make, self.times = end, make, times

    def open_to_read(self, path: Path) -> BinaryIO:
        if path.name.endswith(self.end) and self.times > 0:
            self.times -= 1
            raise self.make(path)
        return super().open_to_read(path)


def system_error(number: int) -> Callable[[Path], BaseException]:
    return lambda path: OSError(number, os.strerror(number), str(path))


class Counted:
    """In the place of the progress that is shown: what was, and how far it came."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, int | None, str]] = []
        self.amounts: list[int] = []

    @contextmanager
    def counting(self, label: str, total: int | None, unit: str) -> Iterator[Counted]:
        self.shown.append((label, total, unit))
        self.amounts.append(0)
        yield self

    def advance(self, amount: int, note: str = "") -> None:
        self.amounts[-1] += amount
