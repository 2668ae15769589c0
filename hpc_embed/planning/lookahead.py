"""Work done in any of several threads, a little ahead of who takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

CALLS_AHEAD = 4

Made = TypeVar("Made")


def in_turn(threads: Executor, calls: Iterable[Callable[[], Made]]) -> Iterator[Made]:
    """What the calls return, in their order; at most CALLS_AHEAD results wait to be taken."""
    pending: deque[Future[Made]] = deque()
    for call in calls:
        pending.append(threads.submit(call))
        if len(pending) > CALLS_AHEAD:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
