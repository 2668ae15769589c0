"""Work done in threads and taken in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AHEAD_PER_THREAD = 2
"""Results that wait to be taken are held in memory."""

Item = TypeVar("Item")
Made = TypeVar("Made")


def in_order(
    work: Callable[[Item], Made], items: Iterable[Item], num_threads: int
) -> Generator[tuple[Item, Callable[[], Made]], None, None]:
    """Each item with a function that gives what was made of it, or raises what was raised; a few are made ahead."""
    pending: deque[tuple[Item, Future[Made]]] = deque()
    executor = ThreadPoolExecutor(num_threads)
    try:
        for item in items:
            pending.append((item, executor.submit(work, item)))
            if len(pending) > AHEAD_PER_THREAD * num_threads:
                item, future = pending.popleft()
                yield item, future.result
        for item, future in pending:
            yield item, future.result
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
