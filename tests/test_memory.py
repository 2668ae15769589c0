"""What is freed is used again, where glibc looks after it."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from hpc_embed import memory

FAULTS = """
import resource, sys
from hpc_embed import memory
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
getattr(memory, sys.argv[1])()
size = int(sys.argv[2]) << 20
bytearray(size)
before = faults()
bytearray(size - (1 << 20))
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library does as it likes")
@pytest.mark.parametrize(("function", "mebibytes"), [("keep_freed_memory", 20), ("keep_all_freed_memory", 300)])
def test_a_block_is_filled_where_another_was_freed(function: str, mebibytes: int) -> None:
    command = [sys.executable, "-c", FAULTS, function, str(mebibytes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 100  # of 256 pages a mebibyte


def test_a_c_library_without_such_settings_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory.keep_all_freed_memory()
