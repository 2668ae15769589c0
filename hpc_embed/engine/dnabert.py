"""DNABERT-2 and DNABERT-S (Zhou et al., 2024) over packed rows, in plain torch.

A BERT of MosaicML's kind: fused Wqkv, ALiBi instead of positions, a gated feed-forward, LayerNorm after each
residual sum. The published remote code is not needed and not run.
"""

# T = packed tokens, D = hidden, H = heads, K = head dimension, F = feed-forward, V = vocabulary

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from hpc_embed.engine.attention import available_back_ends, make_attention
from hpc_embed.engine.batches import PackedBatch
from hpc_embed.engine.checkpoints import Weights
from hpc_embed.engine.dense import Dense
from hpc_embed.engine.norm import Norm


@dataclass(frozen=True, kw_only=True)
class DnaBertShape:
    """Dimensions of a DNABERT-2."""

    num_layers: int = 12
    hidden: int = 768
    num_heads: int = 12
    intermediate: int = 3072
    vocabulary: int = 4096
    layer_norm_eps: float = 1e-12

    @property
    def head_dim(self) -> int:
        return self.hidden // self.num_heads


def alibi_slopes(num_heads: int) -> list[float]:
    """Slope of each head (Press et al., ICLR 2022): a geometric series for a power of two; for other numbers
    the series of the next lower power, then every second slope of the next higher one.
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    more = [2 ** (-8 * (head + 1) / (2 * power)) for head in range(2 * power)]
    return slopes + more[0::2][: num_heads - power]


class _Layer(NamedTuple):
    query_key_value: Dense
    attention_out: Dense
    attention_norm: Norm
    gate: Dense
    """The activated half of the gated feed-forward; without bias, as the other half."""
    value: Dense
    feed_forward_out: Dense
    feed_forward_norm: Norm


class DnaBert:
    """An encoder with its weights on a device."""

    def __init__(
        self,
        shape: DnaBertShape,
        tensors: Mapping[str, Tensor],
        *,
        source: str,
        device: torch.device,
        precision: str,
    ) -> None:
        """Take the weights by their published names; EnvironmentFault names what is missing or misshapen."""
        self.shape = shape
        self._device = device
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.slopes_H = torch.tensor(alibi_slopes(shape.num_heads), device=device)
        self.attention_back_ends = available_back_ends(device, shape.head_dim, self._dtype, has_alibi=True)
        self.use_attention(self.attention_back_ends[0])
        weights = Weights(tensors, source)
        words = weights.take("embeddings.word_embeddings.weight", shape.vocabulary, shape.hidden)
        types = weights.take("embeddings.token_type_embeddings.weight", 2, shape.hidden)
        self._embeddings_VD = (words + types[0]).to(device)
        self._embedding_norm = self._norm(weights, "embeddings.LayerNorm")
        self._layers = [self._layer(weights, f"encoder.layer.{index}.") for index in range(shape.num_layers)]
        weights.finish()

    def use_attention(self, name: str) -> None:
        """Use one of `attention_back_ends`, the first of which is the one at first."""
        self.attention_name, self._attend = name, make_attention(name, self.slopes_H)

    @torch.inference_mode()
    def __call__(self, batch: PackedBatch, layer: int) -> Tensor:
        """Hidden states [T, D] in float32 after `layer` layers, 0 for the embeddings."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            x_TD = input_TD = self._embedding_norm(embedding(batch.tokens_T, self._embeddings_VD))
            for weights in self._layers[:layer]:
                x_TD, input_TD = self._run_layer(weights, x_TD, input_TD, batch)
            return x_TD

    def _run_layer(self, layer: _Layer, x_TD: Tensor, input_TD: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """The residual stream, and the same as input of the products, from one layer to the next."""
        qkv_T3HK = layer.query_key_value(input_TD).view(-1, 3, self.shape.num_heads, self.shape.head_dim)
        with torch.autocast(self._device.type, enabled=False):
            out_THK = self._attend(qkv_T3HK, None, batch)
        x_TD, input_TD = layer.attention_norm.of_sum(layer.attention_out, out_THK.flatten(1), x_TD)
        inner_TF = layer.value.gated(layer.gate, input_TD)
        return layer.feed_forward_norm.of_sum(layer.feed_forward_out, inner_TF, x_TD)

    def _layer(self, weights: Weights, name: str) -> _Layer:
        hidden, inner = self.shape.hidden, self.shape.intermediate
        weight, bias = self._dense(weights, f"{name}attention.self.Wqkv", 3 * hidden, hidden)
        scale = weight.new_tensor([self.shape.head_dim**-0.5, 1.0, 1.0]).repeat_interleave(hidden)
        gate, value = weights.take(f"{name}mlp.gated_layers.weight", 2 * inner, hidden).chunk(2)
        return _Layer(
            query_key_value=self._placed(weight * scale[:, None], bias * scale),
            attention_out=self._placed(*self._dense(weights, f"{name}attention.output.dense", hidden, hidden)),
            attention_norm=self._norm(weights, f"{name}attention.output.LayerNorm"),
            gate=self._placed(gate, None),
            value=self._placed(value, None),
            feed_forward_out=self._placed(*self._dense(weights, f"{name}mlp.wo", hidden, inner)),
            feed_forward_norm=self._norm(weights, f"{name}mlp.layernorm"),
        )

    def _dense(self, weights: Weights, name: str, num_out: int, num_in: int) -> tuple[Tensor, Tensor]:
        return weights.take(f"{name}.weight", num_out, num_in), weights.take(f"{name}.bias", num_out)

    def _placed(self, weight: Tensor, bias: Tensor | None) -> Dense:
        return Dense(weight, bias, device=self._device, dtype=self._dtype)

    def _norm(self, weights: Weights, name: str) -> Norm:
        weight, bias = (weights.take(f"{name}.{part}", self.shape.hidden) for part in ("weight", "bias"))
        return Norm(weight.to(self._device), bias.to(self._device), self.shape.layer_norm_eps)


def random_weights(shape: DnaBertShape, seed: int, device: str = "cpu") -> dict[str, Tensor]:
    """Random tensors of the true shapes under the published names, for untrained models and tests.

    One seed gives one set of numbers on each kind of device.
    """
    generator = torch.Generator(device).manual_seed(seed)
    hidden, inner = shape.hidden, shape.intermediate
    std = 0.7 * hidden**-0.5

    def normal(*size: int) -> Tensor:
        return torch.empty(size, device=device).normal_(0.0, std, generator=generator)

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + normal(hidden), f"{name}.bias": normal(hidden)}

    def dense(name: str, num_out: int, num_in: int) -> dict[str, Tensor]:
        return {f"{name}.weight": normal(num_out, num_in), f"{name}.bias": normal(num_out)}

    tensors = {
        "bert.embeddings.word_embeddings.weight": normal(shape.vocabulary, hidden),
        "bert.embeddings.token_type_embeddings.weight": normal(2, hidden),
    }
    tensors |= norm("bert.embeddings.LayerNorm")
    for index in range(shape.num_layers):
        name = f"bert.encoder.layer.{index}."
        tensors |= dense(f"{name}attention.self.Wqkv", 3 * hidden, hidden)
        tensors |= dense(f"{name}attention.output.dense", hidden, hidden)
        tensors |= norm(f"{name}attention.output.LayerNorm")
        tensors[f"{name}mlp.gated_layers.weight"] = normal(2 * inner, hidden)
        tensors |= dense(f"{name}mlp.wo", hidden, inner) | norm(f"{name}mlp.layernorm")
    return tensors
