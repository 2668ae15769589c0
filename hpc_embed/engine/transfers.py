"""Copies between the host and a GPU: through pinned memory, on streams of their own, so that neither side waits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device; work queued there afterwards finds it whole."""
    host = torch.from_numpy(array)
    if device.type != "cuda":
        return host
    stream, current = _stream(device, "in"), torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        copy = host.pin_memory().to(device, non_blocking=True)
    current.wait_stream(stream)
    copy.record_stream(current)
    return copy


def to_host(tensor: Tensor) -> Callable[[], NDArray[Any]]:
    """Begin the copy behind what is queued on the device so far; the function returned waits for it alone."""
    if tensor.device.type != "cuda":
        return tensor.numpy
    stream = _stream(tensor.device, "out")
    stream.wait_stream(torch.cuda.current_stream(tensor.device))
    with torch.cuda.stream(stream):
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        event = stream.record_event()
    tensor.record_stream(stream)

    def wait() -> NDArray[Any]:
        event.synchronize()
        return host.numpy().copy()  # the pinned buffer goes back to be used again

    return wait


@cache
def _stream(device: torch.device, direction: str) -> torch.cuda.Stream:
    """One for each direction: what goes out waits for the device, and what comes in must not wait behind it."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
