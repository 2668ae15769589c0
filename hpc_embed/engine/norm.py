"""LayerNorm beside a residual stream, always in float32."""

# T = packed tokens, D = hidden

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import layer_norm

from hpc_embed.engine.chains import add_norm, fused, norm_of_sum
from hpc_embed.engine.dense import Dense


class Norm(NamedTuple):
    """A LayerNorm's weights [D]."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x_TD: Tensor) -> Tensor:
        """[T, D] in float32."""
        return layer_norm(x_TD, self.weight.shape, *self)

    def after_sum(self, layer: Dense, inner_TD: Tensor, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Pre-LayerNorm's step: the residual stream plus a layer's result, and the normed input of the next layer."""
        if layer.is_laid_out:
            x_TD = layer.plus(inner_TD, x_TD)
            return x_TD, self(x_TD)
        return fused(add_norm, x_TD.device.type)(layer(inner_TD), x_TD, *self)

    def of_sum(self, layer: Dense, inner_TD: Tensor, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Post-LayerNorm's step: the norm of that sum as the residual stream, and as the input of the next layer."""
        if layer.is_laid_out:
            x_TD = self(layer.plus(inner_TD, x_TD))
            return x_TD, x_TD
        return fused(norm_of_sum, x_TD.device.type)(layer(inner_TD), x_TD, *self)
