"""Packed batches: one row of tokens for all windows, and where each window lies in it. No padding.

tokens_T    c A B e c C e c D E F e      T = tokens of the batch, special ones included
starts_B1   0       4     7         12   B = windows; window b is tokens starts[b] to starts[b + 1]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class PackedBatch:
    """Windows side by side on a device."""

    tokens_T: Tensor
    """int64 token ids."""
    positions_T: Tensor
    """int64 place of each token in its window."""
    window_of_token_T: Tensor
    """int64 window of each token."""
    starts_B1: Tensor
    """int32 cumulative lengths, from 0 to T."""
    lengths: tuple[int, ...]
    """Tokens of each window, on the host."""

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    @property
    def num_windows(self) -> int:
        return len(self.lengths)

    @property
    def max_length(self) -> int:
        return max(self.lengths)


def make_batch(windows: Sequence[NDArray[np.integer]], device: torch.device) -> PackedBatch:
    """Pack windows of at least one token each; on a GPU the copies run beside its other work."""
    lengths_B = np.array([len(window) for window in windows], dtype=np.int64)
    starts_B1 = np.concatenate(([0], np.cumsum(lengths_B)))
    window_of_token_T = np.repeat(np.arange(len(windows)), lengths_B)
    positions_T = np.arange(starts_B1[-1]) - starts_B1[window_of_token_T]
    tokens_T = np.concatenate(windows).astype(np.int64)
    return PackedBatch(
        tokens_T=_to(tokens_T, device),
        positions_T=_to(positions_T, device),
        window_of_token_T=_to(window_of_token_T, device),
        starts_B1=_to(starts_B1.astype(np.int32), device),
        lengths=tuple(lengths_B.tolist()),
    )


def _to(array: NDArray[np.integer], device: torch.device) -> Tensor:
    host = torch.from_numpy(array)
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)
