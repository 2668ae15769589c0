"""From the tokens of some windows to their vectors: pack, encode, pool."""

# B = windows, D = hidden

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_embed.engine.batches import AROUND, PackedBatch, make_batch
from hpc_embed.engine.pooling import pool
from hpc_embed.families.family import Special
from hpc_embed.registry import PER_TOKEN

FEWEST_ROWS_CPU = 64
"""CPU matrix products of fewer rows (measured: one with oneDNN, up to 11 with MKL) add up in another order, so
that a window alone would differ in the last bit from the same window in a batch. A filler makes up the number."""
FILLER_TOKEN = 4
"""An ordinary token of every vocabulary; a filler's vector is thrown away."""


class Encoder(Protocol):
    """Packed windows to hidden states."""

    attention_name: str
    attention_back_ends: list[str]
    """Those that it may use here, the fastest first."""

    def use_attention(self, name: str) -> None:
        """Use another of them."""

    def __call__(self, batch: PackedBatch, layer: int) -> Tensor:
        """Hidden states [T, D] in float32 after `layer` layers."""


class Embedded(NamedTuple):
    """Vectors of B windows, still on the device."""

    vectors_BD: Tensor
    """For `per_token` as many rows of each window as it has tokens."""
    num_tokens_B: NDArray[np.int32]
    """Tokens that each vector was pooled from, on the host."""
    num_computed_tokens: int


def embed_windows(
    encoder: Encoder,
    windows: Sequence[NDArray[np.integer]],
    pooling: str,
    layer: int,
    device: torch.device,
    special: Special = AROUND,
) -> Embedded:
    """One vector per window, the same whatever the other windows are: bit for bit on a CPU."""
    num_windows, num_tokens = len(windows), sum(map(len, windows))
    if device.type == "cpu" and num_tokens < FEWEST_ROWS_CPU:
        windows = [*windows, np.full(FEWEST_ROWS_CPU - num_tokens, FILLER_TOKEN, dtype=windows[0].dtype)]
    batch = make_batch(windows, device, special)
    vectors_BD, num_tokens_B = pool(pooling, encoder(batch, layer), batch)
    num_tokens_B = num_tokens_B[:num_windows]  # the filler's rows are the last
    num_rows = int(num_tokens_B.sum()) if pooling == PER_TOKEN else num_windows
    return Embedded(vectors_BD[:num_rows], num_tokens_B, batch.num_tokens)
