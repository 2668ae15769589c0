"""The parts of a transformer layer with their weights, put together from a checkpoint's tensors."""

# T = packed tokens, D = hidden, H = heads, K = head dimension, W = H * K, F = feed-forward, V = vocabulary

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hpc_embed.engine import chains
from hpc_embed.engine.biases import Alibi, Bias, DistanceTable, alibi_slopes, bucket_of_distances
from hpc_embed.engine.dense import Dense
from hpc_embed.engine.fp8 import Fp8Dense, takes
from hpc_embed.engine.fusion import fused
from hpc_embed.engine.norm import Norm
from hpc_embed.engine.weights import Weights, inverse_frequencies
from hpc_embed.families.family import Activation, Family, Shape


def dtype_of(precision: str) -> torch.dtype:
    """What stands between the products; FP8 is within them alone."""
    return torch.float32 if precision == "fp32" else torch.bfloat16


class Layer(NamedTuple):
    """One block."""

    attention_norm: Norm
    query_key_value: Dense
    """Queries, keys and values in one product, the scale of the scores folded into the queries."""
    query_key_norm_2W: Tensor | None
    attention_out: Dense
    feed_forward_norm: Norm
    activation: Activation
    gate: Dense | None
    feed_forward_in: Dense
    feed_forward_out: Dense

    def queries_keys_values(self, input_TD: Tensor) -> Tensor:
        """[T, 3, W]."""
        qkv_TE = self.query_key_value(input_TD)
        qkv_T3W = qkv_TE.view(len(qkv_TE), 3, -1)
        if self.query_key_norm_2W is None:
            return qkv_T3W
        norm = fused(chains.norm_queries_keys, qkv_T3W.device.type)
        return norm(qkv_T3W, self.query_key_norm_2W, self.attention_norm.eps)

    def feed_forward(self, input_TD: Tensor) -> Tensor:
        """What the layer's last product is still to be taken of, [T, F]."""
        if self.gate is None:
            return self.feed_forward_in.activated(input_TD, self.activation)
        return self.feed_forward_in.gated(self.gate, input_TD, self.activation)


class Assembly:
    """Builds an encoder's parts; `finish` tells everything that the checkpoint lacks."""

    def __init__(
        self,
        family: Family,
        shape: Shape,
        tensors: Mapping[str, Tensor],
        source: str,
        device: torch.device,
        precision: str,
    ) -> None:
        self._family, self._shape, self._device = family, shape, device
        self._dtype, self._is_fp8 = dtype_of(precision), precision == "fp8"
        self._weights = Weights(family, shape, tensors, source)
        self._names = self._weights.names
        self.finish = self._weights.finish

    def embeddings(self) -> Tensor:
        """[V, D], with what is added to or multiplied into every token's."""
        words_VD = self._weights.take(f"{self._names.embedding}.weight")
        if self._names.token_types:
            words_VD = words_VD + self._weights.take(f"{self._names.token_types}.weight")[0]
        return (self._family.embedding_scale * words_VD).to(self._device)

    def embedding_norm(self) -> Norm | None:
        """After the embeddings, where the family has one."""
        return self._norm(self._names.embedding_norm) if self._names.embedding_norm else None

    def final_norm(self) -> Norm | None:
        """After the last layer, where the family has one."""
        return self._norm(self._names.final_norm) if self._names.final_norm else None

    def layer(self, index: int) -> Layer:
        """One block on the device."""
        names, at = self._names, self._names.layer.format(index)
        branch_scale, width = self._family.branch_scale(self._shape), self._shape.width
        score_scale = self._shape.head_dim**-0.5 if self._family.attention.is_scaled else 1.0
        norms = [self._weights.take(f"{at}{name}.weight") for name in names.query_key_norms]
        # a LayerNorm of the queries would undo the scale before it
        row_scale = torch.tensor([1.0 if norms else score_scale, 1.0, 1.0]).repeat_interleave(width)
        gate, feed_forward_in = self._feed_forward_in([at + name for name in names.feed_forward_in])
        return Layer(
            attention_norm=self._norm(at + names.attention_norm),
            query_key_value=self._dense([at + name for name in names.query_key_value], row_scale),
            query_key_norm_2W=torch.stack((norms[0] * score_scale, norms[1])).to(self._device) if norms else None,
            attention_out=self._dense([at + names.attention_out], branch_scale),
            feed_forward_norm=self._norm(at + names.feed_forward_norm),
            activation=self._family.feed_forward.activation,
            gate=gate,
            feed_forward_in=feed_forward_in,
            feed_forward_out=self._dense([at + names.feed_forward_out], branch_scale),
        )

    def inverse_frequencies(self) -> Tensor | None:
        """[K / 2] of rotary positions, as the checkpoint stores them where it does; layers may not differ."""
        if self._family.attention.positions != "rotary":
            return None
        names = [self._names.layer.format(i) + self._names.inverse_frequencies for i in range(self._shape.num_layers)]
        stored = [frequencies for name in names if (frequencies := self._weights.optional(name)) is not None]
        usual = inverse_frequencies(self._shape.head_dim, self._device)
        if not stored:
            return usual
        self._weights.check("rotary_embeddings.inv_freq differs between layers", all(map(stored[0].equal, stored)))
        self._weights.check(f"rotary_embeddings.inv_freq has {stored[0].shape}", stored[0].shape == usual.shape)
        return stored[0].float().to(self._device)

    def bias(self) -> Bias | None:
        """What is added to the scores, None with rotary positions."""
        if self._family.attention.positions == "alibi":
            return Alibi(torch.tensor(alibi_slopes(self._shape.num_heads), device=self._device))
        if self._family.attention.positions == "buckets":
            buckets_L = bucket_of_distances(self._shape.num_buckets, self._shape.max_distance)
            table_BH = self._weights.take(f"{self._names.bias_table}.weight")
            return DistanceTable(table_BH.to(self._device)[buckets_L.to(self._device)].T.contiguous())
        return None

    def _norm(self, name: str) -> Norm:
        weight_D, bias_D = self._weights.take(f"{name}.weight"), self._weights.stacked([name], "bias")
        bias_D = None if bias_D is None else bias_D.to(self._device)
        return Norm(weight_D.to(self._device), bias_D, self._shape.eps, self._family.norms.kind == "rms")

    def _feed_forward_in(self, names: list[str]) -> tuple[Dense | None, Dense]:
        """The gate, where there is one, and the other half."""
        weight_ED, bias_E = self._stacked(names)
        if not self._family.feed_forward.is_gated:
            return None, self._placed(weight_ED, bias_E)
        biases = (None, None) if bias_E is None else bias_E.chunk(2)
        gate, value = (self._placed(*half) for half in zip(weight_ED.chunk(2), biases, strict=True))
        return gate, value

    def _dense(self, names: list[str], scale: Tensor | float = 1.0) -> Dense:
        """A product whose rows, or all of it, are scaled."""
        weight_ED, bias_E = self._stacked(names)
        scale_E1 = scale.to(weight_ED.device)[:, None] if isinstance(scale, Tensor) else scale
        scale_E = scale_E1[:, 0] if isinstance(scale_E1, Tensor) else scale_E1
        return self._placed(weight_ED * scale_E1, None if bias_E is None else bias_E * scale_E)

    def _stacked(self, names: list[str]) -> tuple[Tensor, Tensor | None]:
        weight_ED, bias_E = self._weights.stacked(names), self._weights.stacked(names, "bias")
        assert weight_ED is not None
        return weight_ED, bias_E

    def _placed(self, weight_ED: Tensor, bias_E: Tensor | None) -> Dense:
        make = Fp8Dense if self._is_fp8 and takes(weight_ED) else Dense
        return make(weight_ED, bias_E, device=self._device, dtype=self._dtype)
