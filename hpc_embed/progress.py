"""Progress: what workers tell, and how it is shown: a live bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TextIO

from hpc_embed.screen import fitted, printable_lines
from hpc_embed.units import format_seconds

SECONDS_BETWEEN_LINES = 60.0


class WorkerReady(NamedTuple):
    """A worker has its model on the device."""

    device: str
    precision: str
    token_budget: int
    dimension: int
    kernels: str = ""
    """By what attention and the steps between the products run."""
    notes: tuple[str, ...] = ()
    """What the device cannot do, and how it goes on without."""


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
            say(self._line(note))

    def _line(self, note: str) -> str:
        seconds = time.monotonic() - self.started
        parts = [f"{self.label}: {self.done:,}"]
        if self.total:
            left = seconds * (self.total - self.done) / max(self.done, 1)
            parts = [f"{self.label}: {self.done:,} of {self.total:,} {self.unit} ({self.done / self.total:.0%})"]
            parts.append(f"{format_seconds(left)} left")
        return ", ".join([*parts, note] if note else parts)


class _Quiet:
    """Whether news is left out; of this process, since every module may have some."""

    is_on = False


def be_quiet(is_on: bool) -> None:
    """Tell no news and no progress from here on, or tell them again."""
    _Quiet.is_on = is_on


def note(text: str) -> None:
    """One line of news on standard error."""
    if not _Quiet.is_on:
        say(fitted(text, sys.stderr))


def say(line: str) -> None:
    """A line on standard error; where nobody reads it (`2>&1 | head`), the work goes on."""
    with read_or_not(sys.stderr):
        print(printable_lines(line), file=sys.stderr, flush=True)


@contextmanager
def read_or_not(stream: TextIO) -> Iterator[None]:
    """What is written meanwhile is dropped where nobody reads it, and so is what follows."""
    try:
        yield
    except BrokenPipeError:
        let_go(stream)


def open_closed_streams() -> None:
    """Standard streams that the shell has closed (`>&-`) lead nowhere.

    The next file that is opened would get their number otherwise, and in it what processes print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def let_go(stream: TextIO) -> None:
    """What is still to be written goes nowhere; Python would end with 120 over it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def shows_bars() -> bool:
    """True where something that is drawn again and again would be seen as such."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not _Quiet.is_on


@contextmanager
def counting(label: str, total: int | None, unit: str) -> Iterator[Counting]:
    """Show progress on standard error in the way that fits it."""
    if shows_bars():
        with _bar(label, total, unit) as bar:
            yield bar
    else:
        yield Silent() if _Quiet.is_on else Lines(label, total, unit)


@contextmanager
def _bar(label: str, total: int | None, unit: str) -> Iterator[Counting]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
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
