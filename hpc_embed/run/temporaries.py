"""Names of files in the making, and which of them a crash has left."""

from __future__ import annotations

import os
import re
import socket
import uuid
import zlib
from functools import cache
from pathlib import Path

TEMPORARY = re.compile(r"^\..+\.tmp-([0-9a-f]{8})([0-9a-f]{8})[0-9a-f]{16}$")
"""Where it is made, by which process, and what nobody else has; they are never read."""
SECONDS_UNTIL_LOST = 86_400.0
"""Whoever writes on another machine and gives no sign for so long is taken for dead."""


def temporary_sibling(path: Path) -> Path:
    """A name beside `path` that nobody else takes, on this node or another."""
    return path.with_name(f".{path.name}.tmp-{_here():08x}{os.getpid():08x}{uuid.uuid4().hex[:16]}")


def is_ours(name: str) -> bool:
    """True for a temporary that a process of this machine made, dead or alive."""
    match = TEMPORARY.match(name)
    return match is not None and int(match[1], 16) == _here()


def is_writer_alive(name: str) -> bool:
    """True where the process that makes the temporary `name`, one of ours, is still there."""
    match = TEMPORARY.match(name)
    assert match is not None
    try:
        os.kill(int(match[2], 16), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@cache
def _here() -> int:
    """This machine, since it booted, and these process ids: containers have their own."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(str(Path(path).readlink()) if path.endswith("pid") else Path(path).read_text())
        except OSError:
            parts.append("")
    return zlib.crc32("\n".join(parts).encode())


def this_host() -> str:
    """The name of this machine."""
    return socket.gethostname()


def this_process() -> str:
    """Host and process id, for markers and messages."""
    return f"{this_host()}:{os.getpid()}"
