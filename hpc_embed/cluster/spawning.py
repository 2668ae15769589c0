"""Processes that begin anew, and import what they need themselves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def no_main() -> Iterator[None]:
    """Start processes as if this one ran no script.

    Spawned ones import that anew, and a script without `if __name__ == "__main__"` would run once more in each; what
    they are for must come from a module.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
