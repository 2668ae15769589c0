"""Chains of element-wise steps between the products: one pass over memory each on a GPU, where they are compiled.

Each is written once, plainly. torch.compile fuses it there; a CPU, and a GPU node without what Triton needs (it
wants a C compiler), runs it as it stands.
"""

# T = packed tokens, H = heads, K = head dimension, D = hidden, F = feed-forward

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

P = ParamSpec("P")
R = TypeVar("R")


def rotate(qk_T2HK: Tensor, cosines_T11K: Tensor, sines_T11K: Tensor) -> Tensor:
    """Rotary positions (Su et al., 2021), the halves of each head paired, computed in float32."""
    first, second = qk_T2HK.float().chunk(2, dim=-1)
    turned = (first * cosines_T11K - second * sines_T11K, second * cosines_T11K + first * sines_T11K)
    return torch.cat(turned, dim=-1).to(qk_T2HK.dtype)


def add_norm(out_TD: Tensor, x_TD: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum in float32, and its LayerNorm in the precision of the next product."""
    sum_TD = x_TD + out_TD.float()
    return sum_TD, layer_norm(sum_TD, weight_D.shape, weight_D, bias_D, eps).to(out_TD.dtype)


def norm_of_sum(out_TD: Tensor, x_TD: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The LayerNorm of the sum, in float32 and in the precision of the next product."""
    normed_TD = layer_norm(x_TD + out_TD.float(), weight_D.shape, weight_D, bias_D, eps)
    return normed_TD, normed_TD.to(out_TD.dtype)


def gate(gate_TF: Tensor, value_TF: Tensor) -> Tensor:
    """The exact GELU of one half times the other."""
    return gelu(gate_TF) * value_TF


def fused(chain: Callable[P, R], device_type: str) -> Callable[P, R]:
    """The chain compiled where that can be done, else itself."""
    if device_type != "cuda" or not can_compile():
        return chain
    compiled: Callable[P, R] = _compiled(chain)
    return compiled


@cache
def _compiled(chain: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(chain, dynamic=True)
    return compiled


@cache
def can_compile() -> bool:
    """True where torch.compile makes a kernel for this machine's GPU, tried on a small one."""
    if not torch.cuda.is_available():
        return False
    try:
        torch.compile(_trial)(torch.ones(8, device="cuda"))
    except (RuntimeError, ImportError, OSError):  # no Triton, no C compiler, too old a GPU
        return False
    return True


def _trial(x: Tensor) -> Tensor:
    return x * 2 + 1
