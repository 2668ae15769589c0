"""The processor as the kernel describes it. No torch: a command asks before it plans."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


def has_bf16() -> bool:
    """True where it multiplies BF16 by instructions of its own."""
    return bool({"avx512_bf16", "amx_bf16"} & flags())


def has_amx() -> bool:
    """True where it multiplies BF16 by tiles."""
    return "amx_bf16" in flags()


def flags() -> set[str]:
    """Names of its features, as Linux spells them."""
    return set((_entry("flags") or _entry("Features")).split())


def maker() -> str:
    """As the processor names it, AuthenticAMD say; empty where Linux does not tell."""
    return _entry("vendor_id")


def name() -> str:
    """The maker's name for it, else the architecture's."""
    return _entry("model name") or platform.machine()


def _entry(key: str) -> str:
    return next((line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith(key)), "")


@cache
def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
