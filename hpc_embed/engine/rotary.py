"""Rotary positions (Su et al., 2021): the halves of each head paired, tables in float32."""

# T = packed tokens, N = tokens of the longest window, H = heads, K = head dimension

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from hpc_embed.engine.batches import PackedBatch


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

    def rotated(self, qkv_T3HK: Tensor) -> Tensor:
        """Queries and keys [T, 2, H, K] in float32 at their positions."""
        first, second = qkv_T3HK[:, :2].float().chunk(2, dim=-1)
        cosines, sines = self.tables_T11K
        out_T2HK = torch.empty_like(qkv_T3HK[:, :2], dtype=torch.float32)
        out_first, out_second = out_T2HK.chunk(2, dim=-1)
        torch.mul(first, cosines, out=out_first).addcmul_(second, sines, value=-1)
        torch.mul(second, cosines, out=out_second).addcmul_(first, sines)
        return out_T2HK
