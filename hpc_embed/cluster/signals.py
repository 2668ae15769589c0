"""Signals held back while something must not be cut in two, or while a process starts that nobody has armed yet."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def signals_held(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Deliver these signals afterwards. Processes that are started meanwhile hold them back for good."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
