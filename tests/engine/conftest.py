"""What tests of the engine share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Torch's threads from here on; one again afterwards."""
    yield torch.set_num_threads
    torch.set_num_threads(1)
