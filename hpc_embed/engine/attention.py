"""Attention over packed rows: each token sees the tokens of its own window and no others.

back end   where            bias
kernel     CPU, x86-64      none, ALiBi, table    kernels/attention.c, rotary positions included
sdpa       everywhere       none, ALiBi, table    windows of one length together
varlen     CUDA             none                  torch.nn.attention.varlen, one launch for all windows
flash      CUDA, package    none, ALiBi           flash_attn's variable-length kernel with alibi_slopes
flex       CUDA             none, ALiBi, table    FlexAttention with a document mask, compiled
"""

# T = packed tokens, H = heads, K = head dimension, R = windows of one length, n = their tokens

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hpc_embed.engine import kernel
from hpc_embed.engine.batches import PackedBatch
from hpc_embed.engine.biases import Alibi, Bias, BiasKind
from hpc_embed.engine.chains import can_compile, fused
from hpc_embed.engine.rotary import Rotary

Attend = Callable[[Tensor, Rotary | None, PackedBatch], Tensor]
"""q, k, v in one [T, 3, H, K] with the scale already in q, the rotary positions that they are still to get, and
their batch, to [T, H, K]."""
FLEX_BLOCK = 128
"""Tokens of a block in FlexAttention's mask."""


def make_attention(name: str, bias: Bias | None = None) -> Attend:
    """One back end by name."""
    if name == "kernel":
        return lambda qkv, rotary, batch: kernel.attend(qkv, rotary, batch, bias)
    if name == "varlen":
        return _varlen
    if name == "flash":
        assert bias is None or isinstance(bias, Alibi)
        slopes_H = None if bias is None else bias.slopes_H
        return lambda qkv, rotary, batch: _flash(qkv, rotary, batch, slopes_H)
    if name == "flex":
        return FlexAttention(bias)
    return lambda qkv, rotary, batch: _sdpa(qkv, rotary, batch, bias)


def available_back_ends(
    device: torch.device, head_dim: int, dtype: torch.dtype, *, bias: BiasKind | None = None
) -> list[str]:
    """Back ends that can run here, the fastest first, found by looking for what they need."""
    if device.type != "cuda":
        return ["kernel", "sdpa"] if kernel.takes(head_dim) else ["sdpa"]
    flex = ["flex"] if _has("torch.nn.attention.flex_attention") and can_compile() else []
    if dtype == torch.float32:  # the others multiply in half precision only
        return ["sdpa", *flex]
    varlen = ["varlen"] if bias is None and _find_varlen() is not None else []
    flash = ["flash"] if bias != "table" and _has("flash_attn") else []
    return [*varlen, *flash, *flex, "sdpa"]


@cache
def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _separate(qkv_T3HK: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys at their positions, and values, each [T, H, K]; in float32 on a CPU."""
    dtype = qkv_T3HK.dtype if qkv_T3HK.is_cuda else torch.float32
    qk_T2HK = qkv_T3HK[:, :2] if rotary is None else rotary.rotated(qkv_T3HK[:, :2])
    return qk_T2HK[:, 0].to(dtype), qk_T2HK[:, 1].to(dtype), qkv_T3HK[:, 2].to(dtype)


def _sdpa(qkv_T3HK: Tensor, rotary: Rotary | None, batch: PackedBatch, bias: Bias | None) -> Tensor:
    q_THK, k_THK, v_THK = _separate(qkv_T3HK, rotary)
    out_THK = torch.empty_like(q_THK)
    for span, length in _runs_of_one_length(batch):
        q, k, v, out = (
            x_THK[span].view(-1, length, *x_THK.shape[1:]).transpose(1, 2) for x_THK in (q_THK, k_THK, v_THK, out_THK)
        )
        if bias is None:
            out.copy_(scaled_dot_product_attention(q, k, v, scale=1.0))
        else:
            mask = bias.reversed_bias(length, q.dtype)[None]
            out.copy_(scaled_dot_product_attention(q.flip(2), k, v, attn_mask=mask, scale=1.0).flip(2))
    return out_THK


def _runs_of_one_length(batch: PackedBatch) -> Iterator[tuple[slice, int]]:
    """Tokens of neighbouring windows that have one length; in a sorted batch, all that have it."""
    start = 0
    for length, run in groupby(batch.lengths):
        stop = start + length * sum(1 for _ in run)
        yield slice(start, stop), length
        start = stop


@cache
def _find_varlen() -> Callable[..., Any] | None:
    if not _has("torch.nn.attention.varlen"):
        return None
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


@cache
def _varlen_options() -> dict[str, object]:
    """Options that this torch's varlen_attn has: the scale is in q already, and one split is batch-invariant."""
    varlen = _find_varlen()
    assert varlen is not None
    wanted: dict[str, object] = {"scale": 1.0, "num_splits": 1}
    return {name: value for name, value in wanted.items() if name in inspect.signature(varlen).parameters}


def _varlen(qkv_T3HK: Tensor, rotary: Rotary | None, batch: PackedBatch) -> Tensor:
    varlen = _find_varlen()
    assert varlen is not None
    q_THK, k_THK, v_THK = _separate(qkv_T3HK, rotary)
    options = _varlen_options()
    if "scale" not in options:  # it would divide by sqrt(K) once more
        q_THK = q_THK * q_THK.shape[-1] ** 0.5
    starts, longest = batch.starts_B1, batch.max_length
    out: Any = varlen(q_THK, k_THK, v_THK, starts, starts, longest, longest, **options)
    return out if isinstance(out, Tensor) else out[0]


def _flash(qkv_T3HK: Tensor, rotary: Rotary | None, batch: PackedBatch, slopes_H: Tensor | None) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    q_THK, k_THK, v_THK = _separate(qkv_T3HK, rotary)
    starts, longest = batch.starts_B1, batch.max_length
    out: Tensor = flash_attn_varlen_func(
        q_THK, k_THK, v_THK, starts, starts, longest, longest, softmax_scale=1.0, alibi_slopes=slopes_H
    )
    return out


class FlexAttention:
    """FlexAttention with a document mask, which is made once for each batch and handed to every layer."""

    def __init__(self, bias: Bias | None) -> None:
        self._score_mod = None if bias is None else _score_mod(bias)
        self._batch: PackedBatch | None = None
        self._mask: Any = None

    def __call__(self, qkv_T3HK: Tensor, rotary: Rotary | None, batch: PackedBatch) -> Tensor:
        from torch.nn.attention import flex_attention as module

        if batch is not self._batch:
            self._batch, self._mask = batch, document_mask(batch)
        attend: Callable[..., Any] = fused(module.flex_attention, qkv_T3HK.device.type)
        q, k, v = (x_THK.transpose(0, 1)[None] for x_THK in _separate(qkv_T3HK, rotary))
        out: Any = attend(q, k, v, score_mod=self._score_mod, block_mask=self._mask, scale=1.0)
        result: Tensor = out[0].transpose(0, 1)
        return result


def _score_mod(bias: Bias) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    return lambda score, b, h, i, j: bias.score(score, h, i, j)


def document_mask(batch: PackedBatch) -> Any:
    """Block mask of packed windows from where they start: a dense mask of T * T would not fit.

    A block of queries sees the blocks of keys from its first token's window to the end of its last token's.
    """
    from torch.nn.attention.flex_attention import BlockMask

    window_T, num_tokens = batch.window_of_token_T, batch.num_tokens
    num_blocks = -(-num_tokens // FLEX_BLOCK)
    blocks_Q = torch.arange(num_blocks, device=window_T.device)
    first_Q = batch.starts_B1[window_T[blocks_Q * FLEX_BLOCK]] // FLEX_BLOCK
    ends_Q = (blocks_Q * FLEX_BLOCK + FLEX_BLOCK - 1).clamp_max(num_tokens - 1)
    last_Q = (batch.starts_B1[window_T[ends_Q] + 1] - 1) // FLEX_BLOCK
    indices_QB = (first_Q[:, None] + blocks_Q).clamp_max(num_blocks - 1)

    def same_window(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return window_T[i] == window_T[j]

    mask: Any = BlockMask.from_kv_blocks(
        (last_Q - first_Q + 1)[None, None].int(),
        indices_QB[None, None].int(),
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=same_window,
        seq_lengths=(num_tokens, num_tokens),
    )
    return mask
