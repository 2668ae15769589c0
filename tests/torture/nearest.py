"""A pytest plugin: of the tests that reach a mutant only those of its folder, its own module's before the others.

What they let live is tried with all tests afterwards, so that a mutant is never counted as alive for want of one.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from functools import _lru_cache_wrapper
from pathlib import Path

import pytest


def pytest_sessionstart() -> None:
    """Forget what was computed before: mutmut tries a mutant in a fork of a process that ran the tests without it."""
    for name, module in list(sys.modules.items()):
        for value in list(vars(module).values()) if name.startswith("hpc_embed.") else []:
            if isinstance(value, _lru_cache_wrapper):
                value.cache_clear()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """mutmut names the mutant in the environment: hpc_embed.folder.module.function."""
    package, *inside = os.environ.get("MUTANT_UNDER_TEST", "").split(".")
    if package != "hpc_embed" or len(inside) < 3:
        return
    folder, module = inside[:2]
    items[:] = [item for item in items if item.path.parent.name == folder]
    sizes = Counter(item.path for item in items)

    def rank(item: pytest.Item) -> tuple[bool, int, Path]:
        return item.path.stem != f"test_{module}", sizes[item.path], item.path

    items.sort(key=rank)
