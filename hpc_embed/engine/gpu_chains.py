"""The chains of element-wise steps on a GPU, in Triton: each one pass over memory, with the plain one as its twin.

Sums are float32 and within a row: the bits of a row do not depend on its neighbours. Nothing is compiled for a
number of tokens, so that one form of each serves every batch.
"""

# T = packed tokens, P = parts (queries, keys), H = heads, K = head dimension, W = H * K, D = hidden, F = feed-forward

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

from hpc_embed.engine import chains
from hpc_embed.engine.device import has_fp8
from hpc_embed.engine.kernels import chains as kernels
from hpc_embed.families.family import Activation

TILE = 2048
"""Numbers of a program's tile, more where one row has more; measured on an H200, as the next one is."""
ROTARY_TILE = 512
LARGEST_DIFFERENCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Of a twin from the plain one, relative to the largest number."""


def rotate(qk_TPHK: Tensor, cosines_T11K: Tensor, sines_T11K: Tensor) -> Tensor:
    """chains.rotate, of a view whose tokens are whole."""
    num_tokens, num_parts, num_heads, head_dim = qk_TPHK.shape
    assert qk_TPHK.stride()[1:] == (num_heads * head_dim, head_dim, 1)
    out_TPHK = torch.empty(qk_TPHK.shape, dtype=qk_TPHK.dtype, device=qk_TPHK.device)
    number, half = num_tokens * num_parts * num_heads, head_dim // 2
    padded = triton.next_power_of_2(half)
    rows = max(1, ROTARY_TILE // padded)
    kernels.rotate[(triton.cdiv(number, rows),)](
        *(qk_TPHK, cosines_T11K, sines_T11K, out_TPHK, qk_TPHK.stride(0), number),
        HEADS=num_parts * num_heads,
        HALF=half,
        PADDED=padded,
        ROWS=rows,
    )
    return out_TPHK


def add_norm(
    out_TD: Tensor, x_TD: Tensor, weight_D: Tensor, bias_D: Tensor | None, eps: float, is_rms: bool = False
) -> tuple[Tensor, Tensor]:
    """chains.add_norm."""
    return _sum_and_norm(out_TD, x_TD, weight_D, bias_D, eps, is_rms, keeps_sum=True)


def norm_of_sum(
    out_TD: Tensor, x_TD: Tensor, weight_D: Tensor, bias_D: Tensor | None, eps: float, is_rms: bool = False
) -> tuple[Tensor, Tensor]:
    """chains.norm_of_sum."""
    return _sum_and_norm(out_TD, x_TD, weight_D, bias_D, eps, is_rms, keeps_sum=False)


def _sum_and_norm(
    out_TD: Tensor,
    x_TD: Tensor,
    weight_D: Tensor,
    bias_D: Tensor | None,
    eps: float,
    is_rms: bool,
    keeps_sum: bool,
) -> tuple[Tensor, Tensor]:
    assert out_TD.is_contiguous() and x_TD.is_contiguous()
    num_rows, width = x_TD.shape
    stream_TD = torch.empty_like(x_TD)
    normed_TD = torch.empty_like(out_TD)
    padded, rows, warps = _tile_of(width)
    kernels.norm_sum[(triton.cdiv(num_rows, rows),)](
        *(out_TD, x_TD, weight_D, weight_D if bias_D is None else bias_D, stream_TD, normed_TD, num_rows, eps),
        D=width,
        PADDED=padded,
        ROWS=rows,
        IS_RMS=is_rms,
        HAS_BIAS=bias_D is not None,
        KEEPS_SUM=keeps_sum,
        num_warps=warps,
    )
    return stream_TD, normed_TD


def norm_queries_keys(qkv_T3W: Tensor, weight_2W: Tensor, eps: float) -> Tensor:
    """chains.norm_queries_keys, written over its argument."""
    assert qkv_T3W.is_contiguous()
    num_tokens, _, width = qkv_T3W.shape
    padded, rows, warps = _tile_of(width)
    kernels.norm_parts[(triton.cdiv(num_tokens, rows), 2)](
        *(qkv_T3W, weight_2W, num_tokens, eps), W=width, PADDED=padded, ROWS=rows, num_warps=warps
    )
    return qkv_T3W


def quantised(x_RD: Tensor) -> tuple[Tensor, Tensor]:
    """chains.quantised."""
    assert x_RD.is_contiguous()
    num_rows, width = x_RD.shape
    rounded_RD = torch.empty(x_RD.shape, dtype=torch.float8_e4m3fn, device=x_RD.device)
    scale_R1 = torch.empty((num_rows, 1), dtype=torch.float32, device=x_RD.device)
    padded, rows, warps = _tile_of(width)
    kernels.quantise[(triton.cdiv(num_rows, rows),)](
        *(x_RD, rounded_RD, scale_R1, num_rows), D=width, PADDED=padded, ROWS=rows, num_warps=warps
    )
    return rounded_RD, scale_R1


def activated(x_TF: Tensor, activation: Activation) -> Tensor:
    """chains.activated, written over its argument."""
    return _activate(x_TF, x_TF, activation)


def gate(gate_TF: Tensor, value_TF: Tensor, activation: Activation = "gelu") -> Tensor:
    """chains.gate, written over its second argument."""
    return _activate(gate_TF, value_TF, activation)


def _activate(x_TF: Tensor, gated_TF: Tensor, activation: Activation) -> Tensor:
    assert x_TF.is_contiguous() and gated_TF.is_contiguous()
    num_rows, width = x_TF.shape
    kernels.activate[(triton.cdiv(num_rows * width, TILE),)](
        *(x_TF, gated_TF, num_rows), F=width, ACTIVATION=activation, HAS_GATE=gated_TF is not x_TF, SIZE=TILE
    )
    return gated_TF


TWINS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (rotate, add_norm, norm_of_sum, norm_queries_keys, quantised, activated, gate)
}
"""By the names of the plain ones."""


@torch.inference_mode()
def differing() -> str | None:
    """The twin that does not compute on this GPU what the plain one does, tried on a few rows; None for none.

    Raises whatever Triton, the compiler or the driver do where there is something missing.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(size, generator=generator).to("cuda", dtype)

    for dtype, bound in LARGEST_DIFFERENCE.items():
        x_TD, weight_D, bias_D, out_TD = random(70, 96), random(96), random(96), random(70, 96, dtype=dtype)
        qkv_T3W, angles_T11K = random(70, 3, 96, dtype=dtype), random(70, 1, 1, 12)
        given: dict[str, tuple[Any, ...]] = {
            "rotate": (qkv_T3W.view(70, 3, 4, 24)[:, :2], angles_T11K.cos(), angles_T11K.sin()),
            "add_norm": (out_TD, x_TD, weight_D, bias_D, 1e-5),
            "norm_of_sum": (out_TD, x_TD, weight_D, None, 1e-5, True),
            "norm_queries_keys": (qkv_T3W, random(2, 96), 1e-5),
            "gate": (out_TD, random(70, 96, dtype=dtype)),
            "activated": (out_TD, "gelu"),
        }
        if has_fp8(torch.device("cuda")):
            given["quantised"] = (out_TD,)
        for name, arguments in given.items():
            plain = as_one(getattr(chains, name)(*copied(arguments)))
            ours = as_one(TWINS[name](*arguments))
            if not (ours - plain).abs().max() <= bound * plain.abs().max():  # so that NaN counts
                return name
    return None


def copied(arguments: tuple[Any, ...]) -> list[Any]:
    """The tensors among them once more, for a chain that writes over its own."""
    return [each.clone() if isinstance(each, Tensor) else each for each in arguments]


def as_one(made: Tensor | tuple[Tensor, ...]) -> Tensor:
    """All numbers of a chain's results, in float32."""
    return torch.cat([part.float().flatten() for part in (made if isinstance(made, tuple) else (made,))])


def _tile_of(width: int) -> tuple[int, int, int]:
    """Width of a row filled up, rows of a tile, and warps."""
    padded = triton.next_power_of_2(width)
    rows = max(1, TILE // padded)
    return padded, rows, max(4, min(16, padded * rows // 512))
