"""From the tokens of some windows to their vectors: pack, encode, pool."""

# B = windows, D = hidden

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_embed.engine.batches import AROUND, PackedBatch, make_batch, make_marked_batch
from hpc_embed.engine.dense import FEWEST_ROWS
from hpc_embed.engine.pooling import pool
from hpc_embed.engine.transfers import to_device
from hpc_embed.families.family import Special
from hpc_embed.model import PER_BASE, PER_LETTER, WITH_SPECIAL
from hpc_embed.run.outputs import Outputs, outputs_of


class Encoder(Protocol):
    """Packed windows to hidden states."""

    attention_name: str
    attention_back_ends: list[str]
    """Those that it may use here, the fastest first."""

    def use_attention(self, name: str) -> None:
        """Use another of them."""

    def states(self, batch: PackedBatch, layers: Sequence[int]) -> dict[int, Tensor]:
        """Hidden states [T, D] in float32 after each of `layers`, of one pass."""


class Embedded(NamedTuple):
    """Vectors of B windows, still on the device."""

    vectors_BD: Tensor
    """Rows as run/outputs.py lays them out."""
    num_tokens_B: NDArray[np.int32]
    """Tokens that each vector was pooled from, or that have one, on the host."""
    num_computed_tokens: int


def embed_windows(
    encoder: Encoder,
    windows: Sequence[NDArray[np.integer]],
    pooling: str,
    layer: int | Sequence[int],
    device: torch.device,
    special: Special = AROUND,
) -> Embedded:
    """One vector per window, the same whatever the other windows are: bit for bit on a CPU."""
    return embed_outputs(encoder, windows, outputs_of(pooling, layer), device, special)


def embed_outputs(
    encoder: Encoder,
    windows: Sequence[NDArray[np.integer]],
    outputs: Outputs,
    device: torch.device,
    special: Special | None = AROUND,
    letters_V: NDArray[np.uint8] | None = None,
    fewest_rows: int = FEWEST_ROWS,
) -> Embedded:
    """Every output of one pass, each the bits that its own pass would give. `letters_V` tells how many letters each
    token stands for, which `per_base` alone asks for; with `special` None, special tokens are marked."""
    num_windows = len(windows)
    windows = [*windows, *_fillers(windows, fewest_rows)]
    batch = make_marked_batch(windows, device) if special is None else make_batch(windows, device, special)
    states = encoder.states(batch, outputs.layers)
    letters_T = letters_V[np.concatenate(windows)] if letters_V is not None and PER_BASE in outputs.poolings else None

    def pooled(pooling: str) -> tuple[Tensor, NDArray[np.int32]]:
        made = [pool(pooling, states[layer], batch, letters_T) for layer in outputs.layers]
        num_tokens_B = made[0][1][:num_windows]  # the filler's rows are the last
        num_rows = int(num_tokens_B.sum()) if pooling in PER_LETTER else num_windows
        return torch.cat([vectors_RD[:num_rows] for vectors_RD, _ in made], dim=1), num_tokens_B

    made = {pooling: pooled(pooling) for pooling in outputs.poolings}
    counted = [name for name in outputs.poolings if outputs.counts_special or name not in WITH_SPECIAL]
    num_tokens_B, vectors = made[outputs.per_letter or counted[0]][1], [made[name][0] for name in outputs.pooled]
    if outputs.per_letter is None:
        return Embedded(torch.cat(vectors, dim=1), num_tokens_B, batch.num_tokens)
    return Embedded(behind(made[outputs.per_letter][0], num_tokens_B, vectors), num_tokens_B, batch.num_tokens)


def _fillers(windows: Sequence[NDArray[np.integer]], fewest_rows: int) -> list[NDArray[np.integer]]:
    """Pieces of the first window, whose vectors are thrown away. A window alone would differ in the last bit from the
    same window in a batch, were it not filled up to as many tokens as products want rows."""
    missing, length = fewest_rows - sum(map(len, windows)), len(windows[0])
    return [windows[0][: min(length, missing - done)] for done in range(0, missing, length)]


def behind(rows_RD: Tensor, num_rows_B: NDArray[np.int32], pooled: Sequence[Tensor]) -> Tensor:
    """Each window's pooled rows behind the rows of its letters."""
    if not pooled:
        return rows_RD
    num_pooled, num_windows = len(pooled), len(num_rows_B)
    before_B = np.cumsum(num_rows_B) - num_rows_B + num_pooled * np.arange(num_windows)
    pooled_rows = [to_device(before_B + num_rows_B + place, rows_RD.device) for place in range(num_pooled)]
    is_letter_R = torch.ones(len(rows_RD) + num_pooled * num_windows, dtype=torch.bool, device=rows_RD.device)
    out_RD = rows_RD.new_empty(len(is_letter_R), rows_RD.shape[1])
    for places_B, vectors_BD in zip(pooled_rows, pooled, strict=True):
        out_RD[places_B] = vectors_BD
        is_letter_R[places_B] = False
    out_RD[is_letter_R] = rows_RD
    return out_RD
