"""Sources that can be read only once, and forward: pipes, FIFOs, sockets, devices, standard input.

All of them are opened before any is waited for, and their beginnings are awaited together: so whoever writes several
by turns can go on, and where nothing comes it is told which is silent.
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from hpc_embed.errors import BadInput, UsageError
from hpc_embed.progress import note
from hpc_embed.sequences.streams import after, reading, stream_of

STANDARD_INPUT = "-"
HEAD_BYTES = 1 << 20
"""What is awaited of each before any is read on."""
SECONDS_UNTIL_TOLD = 3.0
SECONDS_BETWEEN_LOOKS = 0.2
"""How soon a read that waits for a writer learns that the scan has ended."""
DESCRIPTOR = re.compile(r"/dev/stdin|/dev/fd/\d+|/proc/self/fd/\d+")


class Pipe:
    """An opened source that can be read only once."""

    def __init__(self, source: str, descriptor: int) -> None:
        self.source = source
        self.descriptor = descriptor
        self.head = bytearray()
        self.stop = threading.Event()
        """Set where nobody wants more: a read that waits ends with InterruptedError."""

    @property
    def content(self) -> BinaryIO:
        """From its beginning; to be taken once."""
        return stream_of(after(bytes(self.head), self._read))

    def read_some(self, size: int) -> bytes:
        """What there is, up to so many bytes; nothing at the end."""
        with reading(self.source):
            return os.read(self.descriptor, size)

    def _read(self, size: int) -> bytes:
        look = select.poll()
        look.register(self.descriptor, select.POLLIN)
        while not look.poll(1000 * SECONDS_BETWEEN_LOOKS):
            if self.stop.is_set():
                raise InterruptedError("the scan has ended")
        return self.read_some(size)


def is_read_once(source: str) -> bool:
    """True for what cannot be opened a second time."""
    return source == STANDARD_INPUT or not Path(source).is_file()


def open_pipes(sources: Iterable[str], stack: ExitStack) -> dict[str, Pipe]:
    """Those that can be read only once, opened, with the beginning of each.

    Raises UsageError for one that is given under two names, BadInput for one that cannot be opened.
    """
    pipes: dict[str, Pipe] = {}
    for source in filter(is_read_once, sources):
        pipes[source] = Pipe(source, _opened(source, stack))
    _refuse_twins(pipes)
    _await_heads(pipes)
    return pipes


def _opened(source: str, stack: ExitStack) -> int:
    if source == STANDARD_INPUT:
        if sys.stdin is None:
            raise BadInput("-: standard input is closed.", remedy="Name files, or pipe something in.")
        return sys.stdin.fileno()
    try:
        descriptor = _open(source)
    except OSError as error:
        reason = error.strerror
        if error.errno == errno.ENXIO and stat.S_ISSOCK(Path(source).stat().st_mode):
            reason = "a socket, which programs connect to"
        raise BadInput(f"{source}: cannot be opened ({reason}).", remedy="Check path and permissions.") from error
    stack.callback(os.close, descriptor)
    return descriptor


def _open(source: str) -> int:
    """Without waiting for somebody who writes into a FIFO."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO and DESCRIPTOR.fullmatch(source):  # a socket
            return os.dup(int(source.rpartition("/")[2].replace("stdin", "0")))
        raise
    os.set_blocking(descriptor, True)
    return descriptor


def _refuse_twins(pipes: Mapping[str, Pipe]) -> None:
    """Raise UsageError where two names are one pipe: each would get a part of what comes."""
    seen: dict[tuple[int, int], str] = {}
    for source, pipe in pipes.items():
        facts = os.fstat(pipe.descriptor)
        other = seen.setdefault((facts.st_dev, facts.st_ino), source)
        if other != source:
            raise UsageError(f"{other} and {source} are the same pipe.", remedy="Name each once.")


def _await_heads(pipes: Mapping[str, Pipe]) -> None:
    look = select.poll()
    waited_for = {pipe.descriptor: pipe for pipe in pipes.values()}
    for descriptor in waited_for:
        look.register(descriptor, select.POLLIN)
    patience: float | None = time.monotonic() + SECONDS_UNTIL_TOLD
    while waited_for:
        for descriptor, _ in look.poll(None if patience is None else 1000 * max(0.0, patience - time.monotonic())):
            pipe = waited_for[descriptor]
            content = pipe.read_some(HEAD_BYTES)
            pipe.head += content
            if not content or len(pipe.head) >= HEAD_BYTES:
                look.unregister(descriptor)
                del waited_for[descriptor]
        if patience is not None and time.monotonic() >= patience:
            patience = None
            _tell_silent([pipe.source for pipe in waited_for.values() if not pipe.head])


def _tell_silent(sources: list[str]) -> None:
    for source in sources:
        name = "standard input" if source == STANDARD_INPUT else "it"
        note(f"{source}: waiting; nobody has written anything into {name} yet.")
