"""Rotary positions (Su et al., 2021): the tables for one batch, in float32."""

# T = packed tokens, N = tokens of the longest window, H = heads, K = head dimension

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from hpc_embed.engine.batches import PackedBatch
from hpc_embed.engine.chains import rotate
from hpc_embed.engine.fusion import fused


class Rotary:
    """Cosines and sines for one batch; in BF16 half of the positions would coincide."""

    def __init__(self, inverse_frequencies: Tensor, batch: PackedBatch) -> None:
        self._inverse_frequencies = inverse_frequencies
        self._batch = batch

    @cached_property
    def tables_NK(self) -> tuple[Tensor, Tensor]:
        """[N, K / 2] by position in the window."""
        positions_N = torch.arange(self._batch.max_length, device=self._inverse_frequencies.device)
        angles_NK = positions_N[:, None].float() * self._inverse_frequencies
        return angles_NK.cos(), angles_NK.sin()

    @cached_property
    def tables_T11K(self) -> tuple[Tensor, Tensor]:
        """[T, 1, 1, K / 2] by token."""
        cosines, sines = (table[self._batch.positions_T][:, None, None] for table in self.tables_NK)
        return cosines, sines

    def rotated(self, qk_T2HK: Tensor) -> Tensor:
        """Queries and keys [T, 2, H, K] at their positions, in their own precision."""
        return fused(rotate, qk_T2HK.device.type)(qk_T2HK, *self.tables_T11K)
