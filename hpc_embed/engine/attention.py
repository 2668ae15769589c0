"""Attention over packed rows: each token sees the tokens of its own window and no others.

back end       where            bias
kernel         CPU, x86-64      none, ALiBi, table    kernels/attention.c, rotary positions included
triton         GPU, compiler    none, ALiBi, table    gpu_attention.py, tiles within windows
varlen         CUDA             none                  torch.nn.attention.varlen, one launch for all windows
varlen-split   CUDA             none                  the same where it cannot be told to add up in one piece
flash          CUDA, package    none, ALiBi           flash_attn's variable-length kernel with alibi_slopes
flex           GPU, compiler    none, ALiBi, table    FlexAttention with a document mask, compiled
sdpa           everywhere       none, ALiBi, table    windows of one length together

What a query may not see of its window (`Sight`) is left out by the kernel, Triton and SDPA alone. Which of them run is
looked up, and whether they compute what SDPA does is tried before the first batch.
"""

# T = packed tokens, H = heads, K = head dimension, R = windows of one length, n = their tokens

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from hpc_embed.engine import kernel
from hpc_embed.engine.batches import PackedBatch, make_batch
from hpc_embed.engine.biases import Alibi, Bias, BiasKind, hiding_table
from hpc_embed.engine.fusion import why_plain
from hpc_embed.engine.rotary import Rotary
from hpc_embed.engine.threads import side_by_side
from hpc_embed.errors import in_one_line

Attend = Callable[[Tensor, Rotary | None, PackedBatch], Tensor]
"""q, k, v in one [T, 3, H, K] with the scale already in q, the rotary positions that they are still to get, and
their batch, to [T, H, K]."""


class Sight(NamedTuple):
    """The keys of its window that a query sees."""

    is_causal: bool = False
    """None behind it."""
    reach: int | None = None
    """Those fewer than so many tokens away."""

    def hides(self, length: int) -> bool:
        """Whether anything of a window of that length is hidden for its distance."""
        return self.reach is not None and self.reach < length

    def mask(self, length: int, device: torch.device) -> Tensor:
        """[n, n], True where query i sees key j."""
        ahead_NN = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
        sees_NN = ahead_NN >= 0 if self.is_causal else torch.ones_like(ahead_NN, dtype=torch.bool)
        return sees_NN if self.reach is None else sees_NN & (ahead_NN.abs() < self.reach)


ALL_OF_IT = Sight()
FLEX_BLOCK = 128
"""Tokens of a block in FlexAttention's mask."""
LARGEST_TRITON_HEAD = 128
TRIAL_LENGTHS = (3, 300, 64, 1, 129, 17, 65)
LARGEST_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Of a trial from SDPA in float32, relative to the largest number; another order of adding stays far below it."""


def make_attention(name: str, bias: Bias | None = None, sight: Sight = ALL_OF_IT) -> Attend:
    """One back end by name; `sight` for those that `available_back_ends` names for it."""
    if name == "kernel":
        return _with_kernel(bias, sight)
    if name == "triton":
        from hpc_embed.engine.gpu_attention import TritonAttention

        return TritonAttention(bias, is_causal=sight.is_causal, reach=sight.reach)
    if name in ("varlen", "varlen-split"):
        return lambda qkv, rotary, batch: _varlen(qkv, rotary, batch, in_one_piece=name == "varlen")
    if name == "flash":
        assert bias is None or isinstance(bias, Alibi)
        slopes_H = None if bias is None else bias.slopes_H
        return lambda qkv, rotary, batch: _flash(qkv, rotary, batch, slopes_H)
    if name == "flex":
        return FlexAttention(bias)
    return lambda qkv, rotary, batch: _sdpa(qkv, rotary, batch, bias, sight)


def _with_kernel(bias: Bias | None, sight: Sight) -> Attend:
    """What a query may not see has a bias that leaves it no weight. As measured, the kernel takes half of SDPA's time
    where windows slide; in a causal window it makes all scores, and is the faster one below a thousand tokens."""
    if sight == ALL_OF_IT:
        return lambda qkv, rotary, batch: kernel.attend(qkv, rotary, batch, bias)
    assert bias is None
    table_of = cache(lambda num_heads: hiding_table(num_heads, is_causal=sight.is_causal, reach=sight.reach))
    return lambda qkv, rotary, batch: kernel.attend(qkv, rotary, batch, table_of(qkv.shape[2]))


def available_back_ends(
    device: torch.device,
    head_dim: int,
    dtype: torch.dtype,
    *,
    bias: BiasKind | None = None,
    sight: Sight = ALL_OF_IT,
) -> list[str]:
    """Back ends that can run here, the fastest first, found by looking for what they need."""
    if device.type != "cuda":
        return ["kernel", "sdpa"] if kernel.takes(head_dim) else ["sdpa"]
    compiles = why_plain() is None
    triton = ["triton"] if compiles and head_dim <= LARGEST_TRITON_HEAD else []
    if sight != ALL_OF_IT:
        return [*triton, "sdpa"]
    flex = ["flex"] if compiles and _has("torch.nn.attention.flex_attention") else []
    if dtype == torch.float32:  # the others multiply in half precision only
        return [*triton, *flex, "sdpa"]
    varlen = _varlen_names() if bias is None else []
    flash = ["flash"] if bias != "table" and _has("flash_attn") else []
    return [*triton, *varlen, *flash, *flex, "sdpa"]


@torch.inference_mode()
def why_not(
    attend: Attend,
    num_heads: int,
    head_dim: int,
    rotary: Callable[[PackedBatch], Rotary | None],
    bias: Bias | None,
    device: torch.device,
    dtype: torch.dtype,
    sight: Sight = ALL_OF_IT,
) -> str | None:
    """What is wrong with a back end on this device, None for nothing: its result for a few windows beside SDPA's."""
    batch = make_batch([np.full(length, 5, dtype=np.int32) for length in TRIAL_LENGTHS], device)
    generator = torch.Generator().manual_seed(0)
    qkv_T3HK = torch.randn(batch.num_tokens, 3, num_heads, head_dim, generator=generator)
    qkv_T3HK = (qkv_T3HK * head_dim**-0.25).to(device, dtype)
    expected_THK = _sdpa(qkv_T3HK.float(), rotary(batch), batch, bias, sight)
    try:
        found_THK = attend(qkv_T3HK, rotary(batch), batch).float()
        difference = float((found_THK - expected_THK).abs().max() / expected_THK.abs().max())
    except Exception as error:  # a library's own, whatever it is: the next back end does not need it
        return in_one_line(error)
    if not difference <= LARGEST_DIFFERENCE[dtype]:  # so that NaN counts
        return f"differs from SDPA by {difference:.1e}"
    return None


@cache
def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _separate(qkv_T3HK: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys at their positions, and values, each [T, H, K]; in float32 on a CPU."""
    dtype = qkv_T3HK.dtype if qkv_T3HK.is_cuda else torch.float32
    qk_T2HK = qkv_T3HK[:, :2] if rotary is None else rotary.rotated(qkv_T3HK[:, :2])
    return qk_T2HK[:, 0].to(dtype), qk_T2HK[:, 1].to(dtype), qkv_T3HK[:, 2].to(dtype)


def _sdpa(
    qkv_T3HK: Tensor, rotary: Rotary | None, batch: PackedBatch, bias: Bias | None, sight: Sight = ALL_OF_IT
) -> Tensor:
    q_THK, k_THK, v_THK = _separate(qkv_T3HK, rotary)
    out_THK = torch.empty_like(q_THK)
    for span, length in _runs_of_one_length(batch):
        q, k, v, out = (
            x_THK[span].view(-1, length, *x_THK.shape[1:]).transpose(1, 2) for x_THK in (q_THK, k_THK, v_THK, out_THK)
        )
        if sight.hides(length):
            mask = sight.mask(length, q.device).expand(1, q.shape[1], -1, -1)
            out.copy_(side_by_side(_plain_sdpa, q, k, v, mask, dim=1))
        elif bias is None:
            out.copy_(side_by_side(_causal_sdpa if sight.is_causal else _plain_sdpa, q, k, v, dim=1))
        else:
            mask = bias.reversed_bias(length, q.dtype)[None]
            out.copy_(side_by_side(_plain_sdpa, q.flip(2), k, v, mask, dim=1).flip(2))
    return out_THK


def _plain_sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)


def _causal_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)


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
    if varlen is None:
        return {}
    wanted: dict[str, object] = {"scale": 1.0, "num_splits": 1}
    return {name: value for name, value in wanted.items() if name in inspect.signature(varlen).parameters}


def _varlen_names() -> list[str]:
    if _find_varlen() is None:
        return []
    return ["varlen", "varlen-split"] if "num_splits" in _varlen_options() else ["varlen"]


def _varlen(qkv_T3HK: Tensor, rotary: Rotary | None, batch: PackedBatch, *, in_one_piece: bool) -> Tensor:
    varlen = _find_varlen()
    assert varlen is not None
    q_THK, k_THK, v_THK = _separate(qkv_T3HK, rotary)
    options = dict(_varlen_options())
    if not in_one_piece:
        options.pop("num_splits", None)
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
    """FlexAttention with a document mask, which is made once for each batch and handed to every layer.

    Queries, keys and values are cut out within what is compiled, so that they are read 16 bytes at a time; blocks of
    64 leave no register to spill with ALiBi. A batch is filled up to whole blocks, two at least: for less, another
    form would be compiled.
    """

    def __init__(self, bias: Bias | None) -> None:
        self._score_mod = None if bias is None else _score_mod(bias)
        self._batch: PackedBatch | None = None
        self._mask: Any = None
        self._compiled: Callable[..., Tensor] | None = None

    def __call__(self, qkv_T3HK: Tensor, rotary: Rotary | None, batch: PackedBatch) -> Tensor:
        if batch is not self._batch:
            self._batch, self._mask = batch, document_mask(batch)
        if self._compiled is None:  # past a limit of recompilations torch would silently make scores of T * T
            self._compiled = torch.compile(self._attend, fullgraph=True) if qkv_T3HK.is_cuda else self._attend
        if rotary is not None:
            qkv_T3HK = torch.cat((rotary.rotated(qkv_T3HK[:, :2]), qkv_T3HK[:, 2:]), dim=1)
        num_more = self._mask.seq_lengths[0] - batch.num_tokens
        filled_S3HK = pad(qkv_T3HK, (0, 0, 0, 0, 0, 0, 0, num_more))
        with torch._dynamo.config.patch(recompile_limit=64):
            return self._compiled(filled_S3HK, self._mask)[: batch.num_tokens]

    def _attend(self, qkv_S3HK: Tensor, mask: Any) -> Tensor:
        from torch.nn.attention.flex_attention import flex_attention

        q, k, v = (x_SHK.transpose(0, 1)[None] for x_SHK in qkv_S3HK.unbind(1))
        options: Any = {"BLOCK_M": 64, "BLOCK_N": 64} if qkv_S3HK.is_cuda else None
        out: Any = flex_attention(
            q, k, v, score_mod=self._score_mod, block_mask=mask, scale=1.0, kernel_options=options
        )
        result: Tensor = out[0].transpose(0, 1)
        return result


def _score_mod(bias: Bias) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    return lambda score, b, h, i, j: bias.score(score, h, i, j)


def document_mask(batch: PackedBatch) -> Any:
    """Block mask of packed windows from where they start: a dense mask of T * T would not fit.

    A block of queries sees the blocks of keys from its first token's window to the end of its last token's. What
    fills the last block is one more window.
    """
    from torch.nn.attention.flex_attention import BlockMask

    num_blocks = max(2, -(-batch.num_tokens // FLEX_BLOCK))
    num_tokens = num_blocks * FLEX_BLOCK
    num_more = num_tokens - batch.num_tokens
    window_S = pad(batch.window_of_token_T, (0, num_more), value=batch.num_windows)
    starts_B2 = pad(batch.starts_B1, (0, 1), value=num_tokens)
    blocks_Q = torch.arange(num_blocks, device=window_S.device)
    first_Q = starts_B2[window_S[blocks_Q * FLEX_BLOCK]] // FLEX_BLOCK
    last_Q = (starts_B2[window_S[blocks_Q * FLEX_BLOCK + FLEX_BLOCK - 1] + 1] - 1) // FLEX_BLOCK
    indices_QB = (first_Q[:, None] + blocks_Q).clamp_max(num_blocks - 1)

    def same_window(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return window_S[i] == window_S[j]

    mask: Any = BlockMask.from_kv_blocks(
        (last_Q - first_Q + 1)[None, None].int(),
        indices_QB[None, None].int(),
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=same_window,
        seq_lengths=(num_tokens, num_tokens),
    )
    return mask
