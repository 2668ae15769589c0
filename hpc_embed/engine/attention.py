"""Attention over packed rows: each token sees the tokens of its own window and no others.

back end   where            bias
sdpa       everywhere       none or ALiBi     window by window
varlen     CUDA             none              torch.nn.attention.varlen, one launch for all windows
flash      CUDA, package    none or ALiBi     flash_attn's variable-length kernel with alibi_slopes
flex       CUDA             none or ALiBi     FlexAttention with a document mask, compiled
"""

# T = packed tokens, H = heads, K = head dimension, n = tokens of one window

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hpc_embed.engine.batches import PackedBatch

Attend = Callable[[Tensor, Tensor, Tensor, PackedBatch], Tensor]
"""q, k, v [T, H, K], the scale already in q, and their batch, to [T, H, K]."""


def choose_attention(device: torch.device, slopes_H: Tensor | None = None) -> tuple[str, Attend]:
    """The fastest back end that this machine has for an encoder with or without ALiBi, and its name."""
    for name in _preferred(device, slopes_H is not None):
        if name in available_back_ends(device, slopes_H is not None):
            return name, make_attention(name, slopes_H)
    return "sdpa", make_attention("sdpa", slopes_H)


def make_attention(name: str, slopes_H: Tensor | None = None) -> Attend:
    """One back end by name."""
    if name == "varlen":
        return _varlen
    if name == "flash":
        return lambda q, k, v, batch: _flash(q, k, v, batch, slopes_H)
    if name == "flex":
        return lambda q, k, v, batch: _flex(q, k, v, batch, slopes_H)
    if slopes_H is None:
        return _sdpa
    alibi = HankelAlibi(slopes_H)
    return lambda q, k, v, batch: _sdpa_alibi(q, k, v, batch, alibi)


def available_back_ends(device: torch.device, has_alibi: bool) -> list[str]:
    """Back ends that can run here, found by looking for what they need."""
    found = ["sdpa"]
    if device.type != "cuda":
        return found
    if not has_alibi and _find_varlen() is not None:
        found.append("varlen")
    if importlib.util.find_spec("flash_attn") is not None:
        found.append("flash")
    if importlib.util.find_spec("torch.nn.attention.flex_attention") is not None:
        found.append("flex")
    return found


def _preferred(device: torch.device, has_alibi: bool) -> tuple[str, ...]:
    if device.type != "cuda":
        return ("sdpa",)
    return ("flash", "flex") if has_alibi else ("varlen", "flash", "flex")


def _sdpa(q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, batch: PackedBatch) -> Tensor:
    out_THK = torch.empty_like(q_THK)
    start = 0
    for length in batch.lengths:
        span = slice(start, start + length)
        q, k, v = (x_THK[span].transpose(0, 1)[None] for x_THK in (q_THK, k_THK, v_THK))
        out_THK[span] = scaled_dot_product_attention(q, k, v, scale=1.0)[0].transpose(0, 1)
        start += length
    return out_THK


class HankelAlibi:
    """The ALiBi bias -slope * |i - j| of any window as a view that takes no memory of its own.

    With the queries in reverse order the bias at (i', j) depends on i' + j alone, so that all rows are
    overlapping slices of one line of 2 n - 1 numbers.
    """

    def __init__(self, slopes_H: Tensor) -> None:
        self._slopes_H = slopes_H.float()
        self._line_HL = torch.empty(len(slopes_H), 0, device=slopes_H.device)

    def reversed_bias(self, length: int, dtype: torch.dtype) -> Tensor:
        """Bias [H, n, n] for queries in reverse order."""
        half = length - 1
        if self._line_HL.shape[1] < 2 * length - 1 or self._line_HL.dtype != dtype:
            distance_L = torch.arange(-half, half + 1, device=self._slopes_H.device).abs()
            self._line_HL = (-self._slopes_H[:, None] * distance_L).to(dtype)
        width = self._line_HL.shape[1]
        first = width // 2 - half
        return self._line_HL.as_strided((len(self._slopes_H), length, length), (width, 1, 1), first)


def _sdpa_alibi(q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, batch: PackedBatch, alibi: HankelAlibi) -> Tensor:
    out_THK = torch.empty_like(q_THK)
    start = 0
    for length in batch.lengths:
        span = slice(start, start + length)
        q = q_THK[span].flip(0).transpose(0, 1)[None]
        k, v = (x_THK[span].transpose(0, 1)[None] for x_THK in (k_THK, v_THK))
        bias = alibi.reversed_bias(length, q.dtype)[None]
        out = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        out_THK[span] = out[0].transpose(0, 1).flip(0)
        start += length
    return out_THK


@cache
def _find_varlen() -> Callable[..., Any] | None:
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
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


def _varlen(q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, batch: PackedBatch) -> Tensor:
    varlen = _find_varlen()
    assert varlen is not None
    options = _varlen_options()
    if "scale" not in options:  # it would divide by sqrt(K) once more
        q_THK = q_THK * q_THK.shape[-1] ** 0.5
    starts, longest = batch.starts_B1, batch.max_length
    out: Any = varlen(q_THK, k_THK, v_THK, starts, starts, longest, longest, **options)
    return out if isinstance(out, Tensor) else out[0]


def _flash(q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, batch: PackedBatch, slopes_H: Tensor | None) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    starts, longest = batch.starts_B1, batch.max_length
    out: Tensor = flash_attn_varlen_func(
        q_THK, k_THK, v_THK, starts, starts, longest, longest, softmax_scale=1.0, alibi_slopes=slopes_H
    )
    return out


@cache
def _flex_function(is_compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention import flex_attention as module

    eager: Callable[..., Any] = module.flex_attention
    return torch.compile(eager, dynamic=True) if is_compiled else eager


def _flex(q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, batch: PackedBatch, slopes_H: Tensor | None) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask

    window_T, num_tokens = batch.window_of_token_T, batch.num_tokens

    def same_window(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return window_T[i] == window_T[j]

    def alibi(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        assert slopes_H is not None
        return score - slopes_H[h] * (i - j).abs()

    attend = _flex_function(q_THK.is_cuda)
    mask = create_block_mask(same_window, None, None, num_tokens, num_tokens, device=q_THK.device)
    q, k, v = (x_THK.transpose(0, 1)[None] for x_THK in (q_THK, k_THK, v_THK))
    score_mod = alibi if slopes_H is not None else None
    out: Any = attend(q, k, v, score_mod=score_mod, block_mask=mask, scale=1.0)
    result: Tensor = out[0].transpose(0, 1)
    return result
