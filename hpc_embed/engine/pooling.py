"""Hidden states to one vector per window, in float32, summed in float64.

Each window is reduced over its own rows in their order, so that its vector cannot depend on its batch mates.
"""

# T = packed tokens, B = windows, D = hidden

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_embed.engine.batches import PackedBatch
from hpc_embed.engine.transfers import to_device
from hpc_embed.registry import PER_BASE, PER_TOKEN


def pool(
    name: str, hidden_TD: Tensor, batch: PackedBatch, letters_T: NDArray[np.uint8] | None = None
) -> tuple[Tensor, NDArray[np.int32]]:
    """Vectors [B, D] in float32, and the number of tokens [B] that each was pooled from, on the host.

    For `per_token` there are as many vectors of each window as it has such tokens, side by side; for `per_base` as
    many as these stand for letters, by `letters_T`.
    """
    if name == PER_BASE:
        assert letters_T is not None
        return per_base(hidden_TD.float(), batch, letters_T)
    lengths_B = (batch.starts_B1[1:] - batch.starts_B1[:-1]).long()
    num_tokens_B = np.array(batch.lengths, dtype=np.int32)
    if name in WITHOUT_SPECIAL:
        num_tokens_B = np.maximum(num_tokens_B - batch.special.total, 0 if name == PER_TOKEN else 1)
    return POOLINGS[name](hidden_TD.float(), batch, lengths_B), num_tokens_B


def mean(hidden_TD: Tensor, batch: PackedBatch, lengths_B: Tensor) -> Tensor:
    """Over residues: the special tokens at either end of each window do not count."""
    sums_BD = _sums(hidden_TD.masked_fill(_is_special(batch), 0.0), lengths_B)
    return (sums_BD / (lengths_B - batch.special.total).clamp_min(1)[:, None]).float()


def mean_with_special(hidden_TD: Tensor, batch: PackedBatch, lengths_B: Tensor) -> Tensor:
    """Over every token."""
    return (_sums(hidden_TD, lengths_B) / lengths_B[:, None]).float()


def cls(hidden_TD: Tensor, batch: PackedBatch, lengths_B: Tensor) -> Tensor:
    """The first token of each window."""
    return hidden_TD[batch.starts_B1[:-1].long()]


def maximum(hidden_TD: Tensor, batch: PackedBatch, lengths_B: Tensor) -> Tensor:
    """Over residues, each dimension by itself."""
    return _segment("max", hidden_TD.masked_fill(_is_special(batch), float("-inf")), lengths_B)


def per_token(hidden_TD: Tensor, batch: PackedBatch, lengths_B: Tensor) -> Tensor:
    """Each residue by itself: every row but those of special tokens."""
    num_kept = sum(max(length - batch.special.total, 0) for length in batch.lengths)
    windows_B = torch.arange(batch.num_windows, device=hidden_TD.device)
    kept_B = (lengths_B - batch.special.total).clamp_min(0)
    window_of_row_R = windows_B.repeat_interleave(kept_B, output_size=num_kept)
    row_in_window_R = torch.arange(num_kept, device=hidden_TD.device) - (kept_B.cumsum(0) - kept_B)[window_of_row_R]
    return hidden_TD[batch.starts_B1[window_of_row_R] + batch.special.front + row_in_window_R]


def per_base(hidden_TD: Tensor, batch: PackedBatch, letters_T: NDArray[np.uint8]) -> tuple[Tensor, NDArray[np.int32]]:
    """Each base by itself: its token's row, as often as that token has letters; special ones have none."""
    lengths_B = np.array(batch.lengths, dtype=np.int64)
    starts_B = np.cumsum(lengths_B) - lengths_B
    num_letters_B = np.add.reduceat(letters_T.astype(np.int64), starts_B)
    repeats_T = to_device(letters_T.astype(np.int64), hidden_TD.device)
    rows_RD = hidden_TD.repeat_interleave(repeats_T, dim=0, output_size=int(num_letters_B.sum()))
    return rows_RD, num_letters_B.astype(np.int32)


POOLINGS: dict[str, Callable[[Tensor, PackedBatch, Tensor], Tensor]] = {
    "mean": mean,
    "mean_with_special": mean_with_special,
    "cls": cls,
    "max": maximum,
    PER_TOKEN: per_token,
}
COLUMNS_AT_ONCE = 256
"""So that no copy of all states in float64 is needed."""
WITHOUT_SPECIAL = ("mean", "max", PER_TOKEN)


def _sums(hidden_TD: Tensor, lengths_B: Tensor) -> Tensor:
    """In float64: one after the other in float32, a thousand rows lose as many bits as all layers together."""
    parts = torch.split(hidden_TD, COLUMNS_AT_ONCE, dim=1)
    return torch.cat([_segment("sum", part.double(), lengths_B) for part in parts], dim=1)


def _segment(reduce: str, hidden_TD: Tensor, lengths_B: Tensor) -> Tensor:
    # unsafe: no check of the lengths, which would wait for the device
    return torch.segment_reduce(hidden_TD, reduce, lengths=lengths_B, axis=0, unsafe=True)


def _is_special(batch: PackedBatch) -> Tensor:
    starts_T = batch.starts_B1[batch.window_of_token_T]
    left_T = batch.starts_B1[1:][batch.window_of_token_T] - starts_T - batch.positions_T
    return ((batch.positions_T < batch.special.front) | (left_T <= batch.special.back))[:, None]
