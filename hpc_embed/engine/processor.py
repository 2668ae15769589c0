"""The processor as the kernel describes it. No torch: a command asks before it plans."""

from __future__ import annotations

import platform
from pathlib import Path


def has_bf16() -> bool:
    """True where it multiplies BF16 by instructions of its own."""
    return bool({"avx512_bf16", "amx_bf16"} & flags())


def flags() -> set[str]:
    """Names of its features, as Linux spells them."""
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            return set(line.split(":", 1)[1].split())
    return set()


def name() -> str:
    """The maker's name for it, else the architecture's."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
