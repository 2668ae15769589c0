"""Packed batches: one row of tokens for all windows, and where each window lies in it. No padding.

tokens_T    c A B e c C e c D E F e      T = tokens of the batch, special ones included
starts_B1   0       4     7         12   B = windows; window b is tokens starts[b] to starts[b + 1]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_embed.engine.transfers import to_device
from hpc_embed.families.family import Special

AROUND = Special()
"""One token in front and one behind."""
NO_SPECIAL = Special(0, 0)


class Letters(NamedTuple):
    """The tokens of a batch that are not special, packed by themselves."""

    rows_R: Tensor
    """Where each stands in the batch."""
    batch: PackedBatch
    has_none_B: Tensor | None
    """Windows of special tokens alone, of which the first stands in; None where there are none."""


@dataclass(frozen=True)
class PackedBatch:
    """Windows side by side on a device."""

    tokens_T: Tensor
    """int32 token ids."""
    positions_T: Tensor
    """int32 place of each token in its window."""
    window_of_token_T: Tensor
    """int32 window of each token."""
    starts_B1: Tensor
    """int32 cumulative lengths, from 0 to T."""
    lengths: tuple[int, ...]
    """Tokens of each window, on the host."""
    special: Special = AROUND
    letters: Letters | None = None
    """Where special tokens were marked one by one, which `special` then does not tell."""

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    @property
    def num_windows(self) -> int:
        return len(self.lengths)

    @property
    def max_length(self) -> int:
        return max(self.lengths)


def make_batch(windows: Sequence[NDArray[np.integer]], device: torch.device, special: Special = AROUND) -> PackedBatch:
    """Pack windows of at least one token each; tokens and starts are copied, the rest is made on the device."""
    lengths = tuple(len(window) for window in windows)
    num_tokens = sum(lengths)
    starts_B1 = to_device(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32), device)
    windows_B = torch.arange(len(windows), dtype=torch.int32, device=device)
    window_of_token_T = windows_B.repeat_interleave(starts_B1.diff(), output_size=num_tokens)
    return PackedBatch(
        tokens_T=to_device(np.concatenate(windows).astype(np.int32), device),
        positions_T=torch.arange(num_tokens, dtype=torch.int32, device=device) - starts_B1[window_of_token_T],
        window_of_token_T=window_of_token_T,
        starts_B1=starts_B1,
        lengths=lengths,
        special=special,
    )


def make_marked_batch(windows: Sequence[NDArray[np.integer]], device: torch.device) -> PackedBatch:
    """The same of windows whose special tokens are marked: -1 - id stands for id."""
    ids = [np.where(window < 0, ~window, window) for window in windows]
    keeps = [window >= 0 for window in windows]
    has_none_B = np.array([not keep.any() for keep in keeps])
    for window in np.flatnonzero(has_none_B):
        keeps[window][0] = True
    kept = [window[keep] for window, keep in zip(ids, keeps, strict=True)]
    letters = Letters(
        to_device(np.flatnonzero(np.concatenate(keeps)), device),
        make_batch(kept, device, NO_SPECIAL),
        to_device(has_none_B, device) if has_none_B.any() else None,
    )
    return replace(make_batch(ids, device, NO_SPECIAL), letters=letters)
