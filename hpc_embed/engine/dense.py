"""Dense layers: weights cast once, and on a CPU multiplied by the library that was measured to be the faster there.

torch brings two. oneDNN, for which weights are laid out once, takes activations, products and sums along and comes
near the peak of AVX-512, where MKL on AMD's processors keeps to half of it. At AVX2 an AMD of Zen 3 has it the other
way round: MKL has 91 % of the peak with GELU behind it and oneDNN 72 %; Zen 5, held to AVX2, has 82 and 95 %. There
oneDNN's own activations take three times as long as torch's, which then follow. Each adds up in one order: oneDNN once
there are enough rows, MKL where these are a multiple of four, too, and have one thread. Where a CPU cannot multiply
BF16, its numbers are multiplied in float32 and rounded afterwards, as the hardware that can does inside.
"""

# R = rows, D = columns in, E = columns out

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from hpc_embed.engine import chains, processor
from hpc_embed.engine.chains import activated
from hpc_embed.engine.exactness import sums_may_split
from hpc_embed.engine.fusion import fused
from hpc_embed.engine.threads import side_by_side
from hpc_embed.families.family import Activation

FEWEST_ROWS = 64
"""Products of fewer rows (measured: one with oneDNN and with cuBLAS, up to 11 with MKL) add up in another order."""
STEPS: dict[Activation, tuple[str, str]] = {
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "silu": ("swish", ""),
    "relu": ("relu", ""),
}
"""What oneDNN's operators call each, and the way in which it is computed."""


class Dense:
    """x W' + b in one precision on one device, and the element-wise step that follows it."""

    def __init__(self, weight_ED: Tensor, bias_E: Tensor | None, *, device: torch.device, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._inner = torch.float32 if device.type == "cpu" and _multiplies_in_float32(dtype) else dtype
        self._weight_ED = weight_ED.to(device, dtype).to(self._inner)
        if device.type == "cuda" and bias_E is None:
            bias_E = weight_ED.new_zeros(len(weight_ED))  # products with a bias alone can be told to add in one order
        self._bias_E = None if bias_E is None else bias_E.to(device, dtype).to(self._inner)
        self.is_laid_out: bool = device.type == "cpu" and products(self._inner) == "oneDNN"
        if self.is_laid_out:
            self._weight_ED = torch.ops.mkldnn._reorder_linear_weight(self._weight_ED)
        self._takes_steps = self.is_laid_out and processor.has_avx512()
        self._block = BLOCK_ROWS if self.is_laid_out and dtype == torch.bfloat16 and processor.has_amx() else None

    def __call__(self, x_RD: Tensor) -> Tensor:
        """[R, E] in the layer's precision."""
        return self._linear(x_RD).to(self._dtype)

    def activated(self, x_RD: Tensor, activation: Activation) -> Tensor:
        """The product, and an element-wise function of it."""
        if self._takes_steps:
            return self._product(x_RD, *STEPS[activation]).to(self._dtype)
        return fused(activated, x_RD.device.type)(self._linear(x_RD), activation).to(self._dtype)

    def gated(self, gate: Dense, x_RD: Tensor, activation: Activation) -> Tensor:
        """Its product, element by element, with the activated one of another layer."""
        if self.is_laid_out:
            return self._joined(x_RD, gate.activated(x_RD, activation), "mul")
        made = fused(chains.gate, x_RD.device.type)(gate._linear(x_RD), self._linear(x_RD), activation)
        return made.to(self._dtype)

    def plus(self, x_RD: Tensor, residual_RE: Tensor) -> Tensor:
        """Its sum with a float32 residual, in float32."""
        if self.is_laid_out and self._dtype == torch.float32:
            return self._joined(x_RD, residual_RE, "add")
        return self(x_RD).float() + residual_RE  # a sum of two precisions takes three times as long

    def _linear(self, x_RD: Tensor) -> Tensor:
        """In the precision in which it is multiplied."""
        if self.is_laid_out:
            return self._product(x_RD, "none")
        x_RD = x_RD.to(self._dtype).to(self._inner)
        if x_RD.is_cuda:
            return self._multiplied(x_RD)
        with torch.autocast("cpu", enabled=False):  # it would round to BF16 what is to be multiplied in float32
            return self._in_full_blocks(x_RD)

    def _in_full_blocks(self, x_RD: Tensor) -> Tensor:
        """A product of MKL: of a multiple of FEWEST_ROWS, with one thread for each row."""
        num_rows = len(x_RD)
        if num_more := -num_rows % FEWEST_ROWS:
            x_RD = pad(x_RD, (0, 0, 0, num_more))
        blocks = x_RD.reshape(-1, FEWEST_ROWS, x_RD.shape[1])
        return side_by_side(self._multiplied, blocks, dim=0).flatten(0, 1)[:num_rows]

    def _multiplied(self, rows: Tensor) -> Tensor:
        try:
            return linear(rows, self._weight_ED, self._bias_E)
        except RuntimeError as error:
            if not sums_may_split(error):
                raise
            return linear(rows, self._weight_ED, self._bias_E)

    def _product(self, x_RD: Tensor, step: str, algorithm: str = "") -> Tensor:
        def run(rows: Tensor) -> Tensor:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._weight_ED, self._bias_E, step, [], algorithm)
            return out

        return self._in_blocks(run, x_RD.to(self._dtype).to(self._inner))

    def _joined(self, x_RD: Tensor, other_RE: Tensor, step: str) -> Tensor:
        def run(rows: Tensor, others: Tensor) -> Tensor:
            out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, others, self._weight_ED, self._bias_E, step)
            return out

        return self._in_blocks(run, x_RD.to(self._dtype).to(self._inner), other_RE.to(self._inner)).to(self._dtype)

    def _in_blocks(self, run: Callable[..., Tensor], *operands: Tensor) -> Tensor:
        """The product; where its bits depend on the number of rows, of so many rows at a time, the last filled up."""
        num_rows = len(operands[0])
        if self._block is None or num_rows == self._block:
            return run(*operands)
        num_more = -num_rows % self._block
        blocks = [torch.split(pad(operand, (0, 0, 0, num_more)), self._block) for operand in operands]
        return torch.cat([run(*each) for each in zip(*blocks, strict=True)])[:num_rows]


BLOCK_ROWS = 512
"""oneDNN's BF16 products with AMX add up in another order for other numbers of rows, also of thousands."""
MKL_FIRST = {("AuthenticAMD", 23), ("AuthenticAMD", 25)}
"""Makers and families whose AVX2 MKL uses better, as measured on Zen 3; Zen 2, of 23, multiplies alike. All other
processors, and these with AVX-512, have oneDNN."""


def products(dtype: torch.dtype = torch.float32) -> str:
    """The library that multiplies on this CPU, by the table and never by a timing at the start: bits depend on it."""
    is_mkl_first = (processor.maker(), processor.family()) in MKL_FIRST and not processor.has_avx512()
    if is_mkl_first and dtype == torch.float32 and torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return "MKL"
    return "oneDNN" if _has_onednn(dtype) else "torch"


@cache
def _has_onednn(dtype: torch.dtype) -> bool:
    """True where this torch has the operators that its own compiler uses, and the processor this precision."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _multiplies_in_float32(dtype: torch.dtype) -> bool:
    """True for a precision that neither has on this processor, where torch's own products take minutes."""
    return products(dtype) == "torch" and products(torch.float32) != "torch"
