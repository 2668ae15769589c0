"""Attention over packed rows on a GPU, in Triton: tiles begin where windows begin, so that no work straddles two.

A tile is a block of one window's queries; its program walks over the window's keys with a running softmax (Milakov
and Gimelshein, 2018; Dao et al., 2022), its sums in float32. Keys are added up from the window's first on, whatever
lies beside it: the bits of a window do not depend on the batch. Queries get their rotary positions on the way in.
"""

# T = packed tokens, H = heads, K = head dimension, N = tiles, L = distances -reach … reach

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor

from hpc_embed.engine.batches import PackedBatch
from hpc_embed.engine.biases import Alibi, Bias, DistanceTable
from hpc_embed.engine.kernels.attention import attend
from hpc_embed.engine.rotary import Rotary
from hpc_embed.engine.transfers import to_device

HOPPER = 9


class Blocks(NamedTuple):
    """Queries and keys of a block, warps of a program, and blocks of keys that are on their way at a time."""

    queries: int
    keys: int
    warps: int
    stages: int


def blocks_for(head_dim: int, dtype: torch.dtype, generation: int, is_rotary: bool) -> Blocks:
    """By head dimension, precision and a GPU's major capability. Measured on an H200 on the lengths of real proteins,
    and for others chosen by what their code spills; a table and never a timing, since bits depend on it."""
    if dtype == torch.float32:
        return Blocks(32, 32, 4, 2)
    if 16 < head_dim <= 32 or head_dim > 64:
        return Blocks(64, 32, 4, 3)
    return Blocks(64, 64, 4, 2 if is_rotary and generation < HOPPER else 3)


def generation_of(device: torch.device) -> int:
    """A GPU's major capability; the interpreter plays the newest that was measured."""
    return torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else HOPPER


class TritonAttention:
    """The back end; what it makes of a batch's lengths serves every layer."""

    def __init__(
        self, bias: Bias | None, blocks: Blocks | None = None, *, is_causal: bool = False, reach: int | None = None
    ) -> None:
        """A query sees no key behind it where that is causal, and none `reach` or more tokens away."""
        self._bias, self._blocks, self._is_causal, self._reach = bias, blocks, is_causal, reach
        self._batch: PackedBatch | None = None
        self._tiles_N3: Tensor | None = None

    def __call__(self, qkv_T3HK: Tensor, rotary: Rotary | None, batch: PackedBatch) -> Tensor:
        num_heads, head_dim = qkv_T3HK.shape[2:]
        blocks = self._blocks or blocks_for(
            head_dim, qkv_T3HK.dtype, generation_of(qkv_T3HK.device), rotary is not None
        )
        if batch is not self._batch or self._tiles_N3 is None:
            self._batch, self._tiles_N3 = batch, tiles(batch, blocks.queries)
        q_THK, k_T1HK, v_THK = qkv_T3HK[:, 0], qkv_T3HK[:, 1:2], qkv_T3HK[:, 2]
        cosines, sines = (q_THK, q_THK) if rotary is None else rotary.tables_NK
        if rotary is not None:
            k_T1HK = rotary.rotated(k_T1HK)
        kind, numbers, reach = _bias_of(self._bias, q_THK)
        out_THK = torch.empty(q_THK.shape, dtype=q_THK.dtype, device=q_THK.device)
        attend[(num_heads * len(self._tiles_N3),)](  # in one dimension: the others end at 65,535
            *(q_THK, k_T1HK, v_THK, out_THK, self._tiles_N3, cosines, sines, numbers),
            *(q_THK.stride(0), k_T1HK.stride(0), v_THK.stride(0), reach, self._reach or 0),
            NUM_HEADS=num_heads,
            K=head_dim,
            PADDED_K=max(16, triton.next_power_of_2(head_dim)),
            TURNS=rotary is not None,
            BIAS=kind,
            CAUSAL=self._is_causal,
            NEAR=self._reach is not None,
            QUERIES=blocks.queries,
            KEYS=blocks.keys,
            PRECISION="ieee" if q_THK.dtype == torch.float32 else "tf32",
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )
        return out_THK


def tiles(batch: PackedBatch, size: int) -> Tensor:
    """int32 [N, 3] on the device: each tile's first query, and its window's first token and end."""
    ends_B = np.cumsum(batch.lengths)
    starts_B = ends_B - batch.lengths
    number_B = -(-np.array(batch.lengths) // size)
    window_N = np.repeat(np.arange(len(number_B)), number_B)
    nth_N = np.arange(len(window_N)) - (np.cumsum(number_B) - number_B)[window_N]
    firsts_N = starts_B[window_N] + size * nth_N
    of_tile_N3 = np.stack((firsts_N, starts_B[window_N], ends_B[window_N]), axis=1).astype(np.int32)
    return to_device(of_tile_N3, batch.tokens_T.device)


def _bias_of(bias: Bias | None, unused: Tensor) -> tuple[str, Tensor, int]:
    if isinstance(bias, Alibi):
        return "alibi", bias.slopes_H, 0
    if isinstance(bias, DistanceTable):
        return "table", bias.table_HL, bias.reach
    return "", unused, 0
