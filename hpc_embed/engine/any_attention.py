"""Our attention in place of a transformers model's own, over the packed row that is running."""

# T = packed tokens, H = heads, G = heads of keys, K = head dimension

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hpc_embed.engine.attention import Attend, Sight, available_back_ends, make_attention, why_not
from hpc_embed.engine.batches import PackedBatch

NAME = "hpc_embed"
"""Of our attention in transformers' registry."""
HARMLESS = {
    *("dropout", "output_attentions", "output_hidden_states", "return_dict", "use_cache", "cache_position"),
    *("position_ids", "position_embeddings", "training", "layer_type"),
}
"""What a model may hand to its attention, and ours need not look at."""


class OtherAttention(Exception):
    """A model whose attention heeds more than ours does."""


class Row(NamedTuple):
    """The packed row that runs."""

    batch: PackedBatch
    positions_1T: Tensor
    attention: RowAttention


_ROW: ContextVar[Row | None] = ContextVar("row", default=None)


class RowAttention:
    """Our back ends for each form that a model's layers have, tried when a form is first met."""

    def __init__(self, device: torch.device, dtype: torch.dtype, preferred: str | None = None) -> None:
        self._device, self._dtype, self._preferred = device, dtype, preferred
        self._made: dict[tuple[int, int, Sight], Attend] = {}
        self.names: list[str] = []
        self.back_ends: list[str] = []
        self.dropped: dict[str, str] = {}

    def __call__(self, qkv_T3HK: Tensor, sight: Sight, batch: PackedBatch) -> Tensor:
        form = (*qkv_T3HK.shape[2:], sight)
        if form not in self._made:
            self._made[form] = self._choose(*form)
        return self._made[form](qkv_T3HK.to(self._dtype), None, batch)

    def _choose(self, num_heads: int, head_dim: int, sight: Sight) -> Attend:
        names = available_back_ends(self._device, head_dim, self._dtype, sight=sight)
        self.back_ends += [name for name in names if name not in self.back_ends]
        for name in [self._preferred] if self._preferred in names else names:
            attend = make_attention(name, None, sight)
            form = num_heads, head_dim, _no_rotary, None, self._device, self._dtype, sight
            reason = None if name == names[-1] else why_not(attend, *form)
            if reason is None:
                self.names += [] if name in self.names else [name]
                return attend
            self.dropped[name] = reason
        raise AssertionError("SDPA is never tried")


def _no_rotary(batch: PackedBatch) -> None:
    """The model has turned queries and keys itself."""


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """As transformers calls it: [1, H, T, K] each, keys perhaps of fewer heads, to [1, T, H, K]."""
    row = _ROW.get()
    assert row is not None
    unknown = [name for name, given in others.items() if not (name in HARMLESS or given is None or given is False)]
    if attention_mask is not None or unknown:
        raise OtherAttention(f"its attention takes {unknown[0] if unknown else 'a mask'}")
    causal = is_causal if is_causal is not None else bool(getattr(module, "is_causal", True))
    q_THK, k_TGK, v_TGK = (heads[0].transpose(0, 1) for heads in (query, key, value))
    num_sharing = q_THK.shape[1] // k_TGK.shape[1]
    if num_sharing > 1:
        k_TGK, v_TGK = (heads.repeat_interleave(num_sharing, dim=1) for heads in (k_TGK, v_TGK))
    scaled_THK = q_THK * (q_THK.shape[-1] ** -0.5 if scaling is None else scaling)
    with torch.autocast(query.device.type, enabled=False):
        qkv_T3HK = torch.stack((scaled_THK, k_TGK.to(scaled_THK.dtype), v_TGK.to(scaled_THK.dtype)), dim=1)
        return row.attention(qkv_T3HK, Sight(causal, sliding_window), row.batch)[None], None


@contextmanager
def running(batch: PackedBatch, attention: RowAttention) -> Iterator[Tensor]:
    """The row whose windows attention keeps apart meanwhile; gives its positions [1, T]."""
    positions_1T = batch.positions_T[None].long()
    before = _ROW.set(Row(batch, positions_1T, attention))
    try:
        yield positions_1T
    finally:
        _ROW.reset(before)


def register() -> None:
    """No mask function goes with it: then no mask is made, which would wait for the device."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attend)


def positions_of_row() -> Tensor | None:
    row = _ROW.get()
    return None if row is None else row.positions_1T
