"""Signals held back while something must not be cut in two, or while a process starts that nobody has armed yet."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def signals_held(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Deliver these signals afterwards. Processes that are started meanwhile hold them back for good.

    Blocking them is for those processes; in ours another thread may take a signal all the same, and the interpreter
    would act on it, so that handlers note it meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers = {each: signal.signal(each, lambda number, _frame: received.append(number)) for each in signals}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for each, handler in handlers.items():
            signal.signal(each, handler)
        for number in dict.fromkeys(received):
            os.kill(os.getpid(), number)
