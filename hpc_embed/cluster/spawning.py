"""Processes that begin anew, and import what they need themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from hpc_embed.cluster.environment import SAFE_PATH


@contextmanager
def no_main() -> Iterator[None]:
    """Start processes as if this one ran no script, and out of reach of the modules in the working folder.

    Spawned ones import that anew, and a script without `if __name__ == "__main__"` would run once more in each; what
    they are for must come from a module.
    """
    main = sys.modules["__main__"]
    before = os.environ.get(SAFE_PATH)
    sys.modules["__main__"] = ModuleType("__main__")
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        del os.environ[SAFE_PATH]
        if before is not None:
            os.environ[SAFE_PATH] = before
