"""Chains of element-wise steps between the products: one pass over memory each on a GPU, where it has their twins.

Each is written here, plainly, and has a twin in Triton (gpu_chains.py). A CPU, and a GPU node without what Triton
needs (it wants a C compiler), runs it as it stands.
"""

# T = packed tokens, H = heads, K = head dimension, W = H * K, D = hidden, F = feed-forward

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, relu, rms_norm, silu

from hpc_embed.families.family import Activation


def rotate(qk_T2HK: Tensor, cosines_T11K: Tensor, sines_T11K: Tensor) -> Tensor:
    """Rotary positions (Su et al., 2021), the halves of each head paired, computed in float32."""
    first, second = qk_T2HK.float().chunk(2, dim=-1)
    turned = (first * cosines_T11K - second * sines_T11K, second * cosines_T11K + first * sines_T11K)
    return torch.cat(turned, dim=-1).to(qk_T2HK.dtype)


def normed(x_TD: Tensor, weight_D: Tensor, bias_D: Tensor | None, eps: float, is_rms: bool = False) -> Tensor:
    """LayerNorm, or RMSNorm (Zhang and Sennrich, 2019)."""
    if is_rms:
        return rms_norm(x_TD, weight_D.shape, weight_D, eps)
    return layer_norm(x_TD, weight_D.shape, weight_D, bias_D, eps)


def add_norm(
    out_TD: Tensor, x_TD: Tensor, weight_D: Tensor, bias_D: Tensor | None, eps: float, is_rms: bool = False
) -> tuple[Tensor, Tensor]:
    """The sum in float32, and its norm in the precision of the next product."""
    sum_TD = x_TD + out_TD.float()
    return sum_TD, normed(sum_TD, weight_D, bias_D, eps, is_rms).to(out_TD.dtype)


def norm_of_sum(
    out_TD: Tensor, x_TD: Tensor, weight_D: Tensor, bias_D: Tensor | None, eps: float, is_rms: bool = False
) -> tuple[Tensor, Tensor]:
    """The norm of the sum, in float32 and in the precision of the next product."""
    normed_TD = normed(x_TD + out_TD.float(), weight_D, bias_D, eps, is_rms)
    return normed_TD, normed_TD.to(out_TD.dtype)


def norm_queries_keys(qkv_T3W: Tensor, weight_2W: Tensor, eps: float) -> Tensor:
    """Queries and keys, in place, through a LayerNorm over all heads together, in float32; values as they are."""
    for which, weight_W in enumerate(weight_2W):
        part_TW = qkv_T3W[:, which]
        part_TW.copy_(layer_norm(part_TW.float(), weight_W.shape, weight_W, None, eps))
    return qkv_T3W


def quantised(x_RD: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in FP8, and the power of two [R, 1] that each is to be multiplied with: their largest is 128 to 256."""
    largest_R1 = x_RD.abs().amax(1, keepdim=True).float()
    power_R1 = largest_R1.view(torch.int32).bitwise_and(EXPONENT).view(torch.float32).clamp(min=2.0**-100)
    return (x_RD.float() * (128 / power_R1)).to(torch.float8_e4m3fn), power_R1 / 128


EXPONENT = 0x7F800000
"""The bits of a float32 that are those of the power of two in it."""


def activated(x_TF: Tensor, activation: Activation) -> Tensor:
    """The element-wise function between two products."""
    return ACTIVATIONS[activation](x_TF)


def gate(gate_TF: Tensor, value_TF: Tensor, activation: Activation = "gelu") -> Tensor:
    """One half, activated, times the other."""
    return activated(gate_TF, activation) * value_TF


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
    "silu": silu,
    "relu": relu,
}
"""GELU is the exact one; T5's gated feed-forward has the approximation by tanh."""
