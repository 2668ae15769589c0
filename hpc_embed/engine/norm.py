"""Norms beside a residual stream, always in float32: LayerNorm, and RMSNorm without mean and bias."""

# T = packed tokens, D = hidden

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hpc_embed.engine.chains import add_norm, norm_of_sum, normed
from hpc_embed.engine.dense import Dense
from hpc_embed.engine.fusion import fused


@dataclass(frozen=True)
class Norm:
    """A norm's weights [D]."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    is_rms: bool = False

    @property
    def _choices(self) -> tuple[Tensor, Tensor | None, float, bool]:
        return self.weight, self.bias, self.eps, self.is_rms

    def __call__(self, x_TD: Tensor) -> Tensor:
        """[T, D] in float32."""
        return normed(x_TD, *self._choices)

    def after_sum(self, layer: Dense, inner_TD: Tensor, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Pre-norm's step: the residual stream plus a layer's result, and the normed input of the next layer."""
        if layer.is_laid_out:
            x_TD = layer.plus(inner_TD, x_TD)
            return x_TD, self(x_TD)
        return fused(add_norm, x_TD.device.type)(layer(inner_TD), x_TD, *self._choices)

    def of_sum(self, layer: Dense, inner_TD: Tensor, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Post-norm's step: the norm of that sum as the residual stream, and as the input of the next layer."""
        if layer.is_laid_out:
            x_TD = self(layer.plus(inner_TD, x_TD))
            return x_TD, x_TD
        return fused(norm_of_sum, x_TD.device.type)(layer(inner_TD), x_TD, *self._choices)
