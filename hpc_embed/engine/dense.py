"""Dense layers: weights cast once, and on a CPU laid out once as oneDNN wants them.

torch multiplies float32 with MKL, which on AMD's processors runs at half of what they can; oneDNN, which torch
brings along, does not (benchmarks/reports), takes GELU, products and sums along, and adds up in one order from two
rows on. Where a CPU cannot multiply BF16, its numbers are multiplied in float32 and rounded afterwards, as the
hardware that can does inside.
"""

# R = rows, D = columns in, E = columns out

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

from hpc_embed.engine import chains
from hpc_embed.engine.chains import fused


class Dense:
    """x W' + b in one precision on one device, and the element-wise step that follows it."""

    def __init__(self, weight_ED: Tensor, bias_E: Tensor | None, *, device: torch.device, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._inner = torch.float32 if device.type == "cpu" and _multiplies_in_float32(dtype) else dtype
        self._weight_ED = weight_ED.to(device, dtype).to(self._inner)
        self._bias_E = None if bias_E is None else bias_E.to(device, dtype).to(self._inner)
        self.is_laid_out: bool = device.type == "cpu" and _has_onednn(self._inner)
        if self.is_laid_out:
            self._weight_ED = torch.ops.mkldnn._reorder_linear_weight(self._weight_ED)

    def __call__(self, x_RD: Tensor) -> Tensor:
        """[R, E] in the layer's precision."""
        return self._product(x_RD, "none") if self.is_laid_out else self._linear(x_RD)

    def gelu(self, x_RD: Tensor) -> Tensor:
        """The exact GELU of it."""
        return self._product(x_RD, "gelu") if self.is_laid_out else gelu(self._linear(x_RD))

    def gated(self, gate: Dense, x_RD: Tensor) -> Tensor:
        """Its product, element by element, with the exact GELU of another layer's."""
        if self.is_laid_out:
            return self._joined(x_RD, gate.gelu(x_RD), "mul")
        return fused(chains.gate, x_RD.device.type)(gate(x_RD), self(x_RD))

    def plus(self, x_RD: Tensor, residual_RE: Tensor) -> Tensor:
        """Its sum with a float32 residual, in float32."""
        if self.is_laid_out and self._dtype == torch.float32:
            return self._joined(x_RD, residual_RE, "add")
        return self(x_RD).float() + residual_RE  # a sum of two precisions takes three times as long

    def _linear(self, x_RD: Tensor) -> Tensor:
        return linear(x_RD.to(self._dtype), self._weight_ED, self._bias_E)

    def _product(self, x_RD: Tensor, step: str) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x_RD.to(self._dtype).to(self._inner), self._weight_ED, self._bias_E, step, [], "none"
        )
        return out.to(self._dtype)

    def _joined(self, x_RD: Tensor, other_RE: Tensor, step: str) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x_RD.to(self._dtype).to(self._inner), other_RE.to(self._inner), self._weight_ED, self._bias_E, step
        )
        return out.to(self._dtype)


@cache
def _has_onednn(dtype: torch.dtype) -> bool:
    """True where this torch has the operators that its own compiler uses, and the processor this precision."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _multiplies_in_float32(dtype: torch.dtype) -> bool:
    """True for a precision that oneDNN lacks on this processor, where torch's own products take minutes."""
    return not _has_onednn(dtype) and _has_onednn(torch.float32)
