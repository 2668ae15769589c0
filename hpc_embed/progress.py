"""Progress: what workers tell, and how it is shown: a live bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

SECONDS_BETWEEN_LINES = 60.0


class WorkerReady(NamedTuple):
    """A worker has its model on the device."""

    device: str
    precision: str
    token_budget: int
    dimension: int


class ShardStarted(NamedTuple):
    """A worker begins a shard; what earlier tries finished is counted already."""

    shard: str
    num_windows: int
    num_residues_done: int


class BatchDone(NamedTuple):
    """One batch has its vectors."""

    shard: str
    num_windows: int
    num_residues: int
    num_tokens: int


class BudgetHalved(NamedTuple):
    """The device ran out of memory; the token budget is now this."""

    token_budget: int


class ShardFinished(NamedTuple):
    """A shard's output and marker are published."""

    shard: str
    num_windows: int
    num_windows_failed: int


class ShardFailed(NamedTuple):
    """A shard could not be done, for a reason of its own."""

    shard: str
    reason: str


class WorkerFailed(NamedTuple):
    """The worker's process cannot go on."""

    reason: str
    traceback: str
    exit_code: int


class WorkerStopped(NamedTuple):
    """The worker stopped because it was asked to; finished pieces are kept."""


Event = (
    WorkerReady | ShardStarted | BatchDone | BudgetHalved | ShardFinished | ShardFailed | WorkerFailed | WorkerStopped
)


class Events(Protocol):
    """Where workers put their events: a queue of another process, or a list's append in a test."""

    def put(self, event: Event) -> None: ...


class Counting(Protocol):
    """Something that counts what is done and shows it."""

    def advance(self, amount: int, note: str = "") -> None: ...


class Silent:
    """Counts nothing."""

    def advance(self, amount: int, note: str = "") -> None:
        """Ignore it."""


@dataclass
class Lines:
    """A line a minute on standard error, for logs."""

    label: str
    total: int | None
    unit: str
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    printed: float = field(default_factory=time.monotonic)

    def advance(self, amount: int, note: str = "") -> None:
        self.done += amount
        if time.monotonic() - self.printed >= SECONDS_BETWEEN_LINES:
            self.printed = time.monotonic()
            print(self._line(note), file=sys.stderr, flush=True)

    def _line(self, note: str) -> str:
        seconds = time.monotonic() - self.started
        parts = [f"{self.label}: {self.done:,}"]
        if self.total:
            left = seconds * (self.total - self.done) / max(self.done, 1)
            parts = [f"{self.label}: {self.done:,} of {self.total:,} {self.unit} ({self.done / self.total:.0%})"]
            parts.append(f"{format_seconds(left)} left")
        return ", ".join([*parts, note] if note else parts)


@contextmanager
def counting(label: str, total: int | None, unit: str) -> Iterator[Counting]:
    """Show progress on standard error in the way that fits it."""
    if not sys.stderr.isatty():
        yield Lines(label, total, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total, note="")

        class Bar:
            def advance(self, amount: int, note: str = "") -> None:
                progress.update(task, advance=amount, note=note)

        yield Bar()


def format_seconds(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def note(text: str) -> None:
    """One line of news on standard error."""
    print(text, file=sys.stderr, flush=True)
