"""What is freed is used again, where the C library has the settings."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from hpc_embed.planning.memory import keep_freed_memory

FAULTS = """
import resource, sys
from hpc_embed.planning.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(20 << 20)
before = faults()
bytearray(19 << 20)
print(faults() - before)
"""


def test_a_block_is_filled_where_another_was_freed() -> None:
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no mallopt")
    done = subprocess.run([sys.executable, "-c", FAULTS, "kept"], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 100  # of 4,864 pages


def test_another_c_library_does_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    keep_freed_memory()
