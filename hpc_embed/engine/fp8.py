"""FP8 for the products of large encoders, where a GPU has it: numbers of eight bits, with a scale for each row.

E4M3 (Micikevicius et al., 2022) has three bits behind the first and reaches from 2^-9 to 448. Each token's activations
and the weights of each column are scaled by a power of two, which rounds nothing, so that their largest lies within 128
and 256: a token's bits depend on no other's.
"""

# R = rows, D = columns in, E = columns out

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from hpc_embed.engine import chains
from hpc_embed.engine.dense import Dense
from hpc_embed.engine.device import has_fp8
from hpc_embed.engine.fusion import fused
from hpc_embed.errors import in_one_line

SIDE = 16
"""The hardware multiplies matrices whose sides are multiples of it."""
LARGEST_DIFFERENCE = 1e-2
"""Of a GPU's products from the same in float32, relative to the largest."""
CPU = torch.device("cpu")


class Fp8Dense(Dense):
    """x W' + b with both factors in FP8. A device without FP8 multiplies the same numbers in float32: slow, but it
    shows how exact FP8 is."""

    def __init__(self, weight_ED: Tensor, bias_E: Tensor | None, *, device: torch.device, dtype: torch.dtype) -> None:
        self._dtype, self._device = dtype, device
        self.is_laid_out = self._takes_steps = False
        self._weight_ED, scale_E1 = chains.quantised(weight_ED.to(device))
        self._scale_1E = scale_E1.T.contiguous()
        self._bias_E = None if bias_E is None else bias_E.to(device, dtype)
        self._has_fp8 = has_fp8(device)
        if not self._has_fp8:
            self._in_float32 = Dense(self._weight_ED.float(), None, device=device, dtype=torch.float32)

    def _linear(self, x_RD: Tensor) -> Tensor:
        quantised = fused(chains.quantised, self._device.type) if self._has_fp8 else chains.quantised
        x_RD, scale_R1 = quantised(x_RD.to(self._dtype))
        if not self._has_fp8:
            out_RE = self._in_float32(x_RD.float()) * scale_R1 * self._scale_1E
            return (out_RE if self._bias_E is None else out_RE + self._bias_E).to(self._dtype)
        multiply: Any = torch._scaled_mm
        out: Tensor = multiply(
            *(x_RD, self._weight_ED.T, scale_R1, self._scale_1E),
            bias=self._bias_E,
            out_dtype=self._dtype,
            use_fast_accum=True,  # sums of fewer bits: off by 2e-3 at most, where rounding to FP8 is by 4e-2
        )
        return out


@cache
@torch.inference_mode()
def why_not(device: torch.device) -> str | None:
    """What is wrong with the products of a GPU that has FP8, None for nothing: tried on a few rows."""
    generator = torch.Generator().manual_seed(0)
    x_RD, weight_ED, bias_E = (torch.randn(size, generator=generator) for size in ((70, 96), (64, 96), (64,)))
    of_cpu, of_gpu = (Fp8Dense(weight_ED, bias_E, device=to, dtype=torch.bfloat16) for to in (CPU, device))
    expected_RE = of_cpu(x_RD).float()
    try:
        difference = float((of_gpu(x_RD.to(device)).cpu().float() - expected_RE).abs().max() / expected_RE.abs().max())
    except RuntimeError as error:  # an older torch's, or a library's
        return in_one_line(error)
    if not difference <= LARGEST_DIFFERENCE:  # so that NaN counts
        return f"its FP8 products differ by {difference:.1e}"
    return None


def takes(weight_ED: Tensor) -> bool:
    """True for a product of such sides."""
    return all(side % SIDE == 0 for side in weight_ED.shape)
