"""The processor as the kernel describes it. No torch: a command asks before it plans."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

BEYOND: dict[str, tuple[str, ...]] = {
    "avx2": ("avx512", "amx"),
    "avx512": ("avx512_bf16", "amx"),
    "avx512_bf16": ("amx",),
}
"""What HPC_EMBED_MAX_CPU_ISA leaves out; torch's own libraries heed ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA and
MKL_ENABLE_INSTRUCTIONS."""


WITHOUT = {
    "bf16": "has no BF16 instructions; FP32 is faster there, and more exact",
    "fp8": "has no FP8 (GPUs from capability 8.9 on do); it is computed in FP32 there, slower and less exact",
}
"""What to say of a device without a precision."""


def has_bf16() -> bool:
    """True where it multiplies BF16 by instructions of its own."""
    return bool({"avx512_bf16", "amx_bf16"} & flags())


def has_amx() -> bool:
    """True where it multiplies BF16 by tiles."""
    return "amx_bf16" in flags()


def has_avx512() -> bool:
    """True where its vectors have 512 bits."""
    return "avx512f" in flags()


def instructions() -> str:
    """The widest that it has and that may be used: amx, avx512_bf16, avx512, avx2, or none of them."""
    found = flags()
    widest = (("amx_bf16", "amx"), ("avx512_bf16", "avx512_bf16"), ("avx512f", "avx512"), ("avx2", "avx2"))
    return next((name for flag, name in widest if flag in found), platform.machine())


def flags() -> set[str]:
    """Names of its features, as Linux spells them; those beyond HPC_EMBED_MAX_CPU_ISA left out."""
    found = set((_entry("flags") or _entry("Features")).split())
    beyond = BEYOND.get(os.environ.get("HPC_EMBED_MAX_CPU_ISA", "").lower(), ())
    return {flag for flag in found if not flag.startswith(beyond)} if beyond else found


def maker() -> str:
    """As the processor names it, AuthenticAMD say; empty where Linux does not tell."""
    return _entry("vendor_id")


def family() -> int:
    """Its maker's number for the design: 25 for AMD's Zen 3 and Zen 4, 26 for Zen 5; 0 where Linux does not tell."""
    return int(_entry("cpu family") or 0)


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
