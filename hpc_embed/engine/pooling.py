"""Hidden states to one vector per window, in float32, summed in float64.

Each window's rows are reduced by themselves, so that its vector cannot depend on its batch mates.
"""

# T = packed tokens, B = windows, D = hidden

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_embed.engine.batches import NO_SPECIAL, Letters, PackedBatch
from hpc_embed.engine.transfers import to_device
from hpc_embed.families.family import Special
from hpc_embed.model import PER_BASE, PER_TOKEN

Reduction = Literal["sum", "max"]


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
    if name in WITHOUT_SPECIAL and batch.letters is not None:
        return _of_letters(name, hidden_TD, batch.letters)
    lengths_B = (batch.starts_B1[1:] - batch.starts_B1[:-1]).long()
    num_tokens_B = np.array(batch.lengths, dtype=np.int32)
    if name in WITHOUT_SPECIAL:
        num_tokens_B = np.maximum(num_tokens_B - batch.special.total, 0 if name == PER_TOKEN else 1)
    return POOLINGS[name](hidden_TD.float(), batch, lengths_B), num_tokens_B


def _of_letters(name: str, hidden_TD: Tensor, letters: Letters) -> tuple[Tensor, NDArray[np.int32]]:
    """Of what is not special; a window without any has NaN, so that it counts as failed."""
    vectors_BD, num_tokens_B = pool(name, hidden_TD[letters.rows_R], letters.batch)
    if letters.has_none_B is None:
        return vectors_BD, num_tokens_B
    has_none_R = letters.has_none_B
    if name == PER_TOKEN:
        has_none_R = has_none_R[letters.batch.window_of_token_T]
    return vectors_BD.masked_fill(has_none_R[:, None], float("nan")), num_tokens_B


def mean(hidden_TD: Tensor, batch: PackedBatch, lengths_B: Tensor) -> Tensor:
    """Over residues: the special tokens at either end of each window do not count."""
    sums_BD = _reduced("sum", hidden_TD, batch, lengths_B, batch.special)
    return (sums_BD / (lengths_B - batch.special.total).clamp_min(1)[:, None]).float()


def mean_with_special(hidden_TD: Tensor, batch: PackedBatch, lengths_B: Tensor) -> Tensor:
    """Over every token."""
    return (_reduced("sum", hidden_TD, batch, lengths_B, NO_SPECIAL) / lengths_B[:, None]).float()


def cls(hidden_TD: Tensor, batch: PackedBatch, lengths_B: Tensor) -> Tensor:
    """The first token of each window."""
    return hidden_TD[batch.starts_B1[:-1].long()]


def maximum(hidden_TD: Tensor, batch: PackedBatch, lengths_B: Tensor) -> Tensor:
    """Over residues, each dimension by itself."""
    return _reduced("max", hidden_TD, batch, lengths_B, batch.special)


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
"""So that no copy of all states in float64 is needed on a GPU."""
OF_NOTHING: dict[Reduction, float] = {"sum": 0.0, "max": float("-inf")}
WITHOUT_SPECIAL = ("mean", "max", PER_TOKEN)


def _reduced(
    reduction: Reduction, hidden_TD: Tensor, batch: PackedBatch, lengths_B: Tensor, special: Special
) -> Tensor:
    """Each window's rows but the special ones to one row: their largest, or their sum in float64. One after the other
    in float32, a thousand rows lose as many bits as all layers together."""
    if hidden_TD.is_cuda:
        return _segments(reduction, hidden_TD, batch, lengths_B, special)
    windows = torch.split(hidden_TD, list(batch.lengths))
    rows = (window_ND[special.front : max(len(window_ND) - special.back, special.front)] for window_ND in windows)
    if reduction == "sum":
        return torch.stack([rows_RD.sum(0, dtype=torch.float64) for rows_RD in rows])
    nothing_D = hidden_TD.new_full(hidden_TD.shape[1:], OF_NOTHING["max"])
    return torch.stack([rows_RD.amax(0) if len(rows_RD) else nothing_D for rows_RD in rows])


def _segments(
    reduction: Reduction, hidden_TD: Tensor, batch: PackedBatch, lengths_B: Tensor, special: Special
) -> Tensor:
    """The same in a few launches for all windows, which a CPU takes ten times as long for."""
    if special.total:
        hidden_TD = hidden_TD.masked_fill(_is_special(batch), OF_NOTHING[reduction])
    if reduction == "max":
        return _segment("max", hidden_TD, lengths_B)
    parts = torch.split(hidden_TD, COLUMNS_AT_ONCE, dim=1)
    return torch.cat([_segment("sum", part.double(), lengths_B) for part in parts], dim=1)


def _segment(reduction: Reduction, hidden_TD: Tensor, lengths_B: Tensor) -> Tensor:
    # unsafe: no check of the lengths, which would wait for the device
    return torch.segment_reduce(hidden_TD, reduction, lengths=lengths_B, axis=0, unsafe=True)


def _is_special(batch: PackedBatch) -> Tensor:
    starts_T = batch.starts_B1[batch.window_of_token_T]
    left_T = batch.starts_B1[1:][batch.window_of_token_T] - starts_T - batch.positions_T
    return ((batch.positions_T < batch.special.front) | (left_T <= batch.special.back))[:, None]
