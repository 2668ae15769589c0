"""ESM-2 (Lin et al., Science 2023) over packed rows, in plain torch.

Pre-LayerNorm transformer with rotary positions and exact GELU. The residual stream, LayerNorm, rotary tables
and attention's result are float32; in BF16 the dense layers alone run in BF16, their weights cast once.
"""

# T = packed tokens, D = hidden, H = heads, K = head dimension, F = feed-forward, V = vocabulary

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from hpc_embed.engine.attention import available_back_ends, make_attention
from hpc_embed.engine.batches import PackedBatch
from hpc_embed.engine.checkpoints import Weights
from hpc_embed.engine.dense import Dense
from hpc_embed.engine.norm import Norm
from hpc_embed.engine.rotary import Rotary

TOKEN_DROPOUT_SCALE = 1 - 0.15 * 0.8
"""Training masked 15 % of the tokens, 80 % of them by <mask>, and scaled embeddings by what was left; without
any <mask>, inference scales every embedding by the same 0.88 (fair-esm, esm2.py, `token_dropout`)."""


@dataclass(frozen=True, kw_only=True)
class Esm2Shape:
    """Dimensions of one size of ESM-2."""

    num_layers: int
    hidden: int
    num_heads: int
    intermediate: int
    vocabulary: int = 33
    layer_norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden // self.num_heads


class _Layer(NamedTuple):
    attention_norm: Norm
    query_key_value: Dense
    """Queries, keys and values in one product, the scale 1/sqrt(K) folded into the queries."""
    attention_out: Dense
    feed_forward_norm: Norm
    feed_forward_in: Dense
    feed_forward_out: Dense


class Esm2:
    """An encoder with its weights on a device."""

    def __init__(
        self, shape: Esm2Shape, tensors: Mapping[str, Tensor], *, source: str, device: torch.device, precision: str
    ) -> None:
        """Take the weights by their published names; EnvironmentFault names what is missing or misshapen."""
        self.shape = shape
        self._device = device
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.attention_back_ends = available_back_ends(device, shape.head_dim, self._dtype, has_alibi=False)
        self.use_attention(self.attention_back_ends[0])
        weights = Weights(tensors, source)
        words = weights.take("embeddings.word_embeddings.weight", shape.vocabulary, shape.hidden)
        self._embeddings_VD = (TOKEN_DROPOUT_SCALE * words).to(device)
        self._layers = [self._layer(weights, f"encoder.layer.{index}.") for index in range(shape.num_layers)]
        self._inverse_frequencies = self._frequencies(weights)
        self._final_norm = self._norm(weights, "encoder.emb_layer_norm_after")
        weights.finish()

    def use_attention(self, name: str) -> None:
        """Use one of `attention_back_ends`, the first of which is the one at first."""
        self.attention_name, self._attend = name, make_attention(name)

    @torch.inference_mode()
    def __call__(self, batch: PackedBatch, layer: int) -> Tensor:
        """Hidden states [T, D] in float32 after `layer` layers; after the last comes the final LayerNorm."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            x_TD = embedding(batch.tokens_T, self._embeddings_VD)
            if not layer:
                return x_TD
            rotary = Rotary(self._inverse_frequencies, batch)
            normed_TD = self._layers[0].attention_norm(x_TD)
            for weights, following in pairwise(self._layers[:layer]):
                x_TD, inner_TF = self._run_layer(weights, x_TD, normed_TD, rotary, batch)
                x_TD, normed_TD = following.attention_norm.after_sum(weights.feed_forward_out, inner_TF, x_TD)
            last = self._layers[layer - 1]
            x_TD, inner_TF = self._run_layer(last, x_TD, normed_TD, rotary, batch)
            x_TD = last.feed_forward_out.plus(inner_TF, x_TD)
            return self._final_norm(x_TD) if layer == self.shape.num_layers else x_TD

    def _run_layer(
        self, layer: _Layer, x_TD: Tensor, normed_TD: Tensor, rotary: Rotary, batch: PackedBatch
    ) -> tuple[Tensor, Tensor]:
        """The residual stream after attention, and what the layer's last product is still to be taken of."""
        qkv_T3HK = layer.query_key_value(normed_TD).view(-1, 3, self.shape.num_heads, self.shape.head_dim)
        with torch.autocast(self._device.type, enabled=False):
            out_THK = self._attend(qkv_T3HK, rotary, batch)
        x_TD, normed_TD = layer.feed_forward_norm.after_sum(layer.attention_out, out_THK.flatten(1), x_TD)
        return x_TD, layer.feed_forward_in.gelu(normed_TD)

    def _layer(self, weights: Weights, name: str) -> _Layer:
        shape, attention = self.shape, f"{name}attention.self."
        parts = [self._take_dense(weights, attention + part, shape.hidden, shape.hidden) for part in _QKV]
        weight, bias = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        scale = weight.new_tensor([shape.head_dim**-0.5, 1.0, 1.0]).repeat_interleave(shape.hidden)
        return _Layer(
            attention_norm=self._norm(weights, f"{name}attention.LayerNorm"),
            query_key_value=self._placed(weight * scale[:, None], bias * scale),
            attention_out=self._dense(weights, f"{name}attention.output.dense", shape.hidden, shape.hidden),
            feed_forward_norm=self._norm(weights, f"{name}LayerNorm"),
            feed_forward_in=self._dense(weights, f"{name}intermediate.dense", shape.intermediate, shape.hidden),
            feed_forward_out=self._dense(weights, f"{name}output.dense", shape.hidden, shape.intermediate),
        )

    def _frequencies(self, weights: Weights) -> Tensor:
        """[K / 2], as the checkpoint stores them; EnvironmentFault where layers differ, as no ESM-2's do."""
        head_dim = self.shape.head_dim
        names = [
            f"encoder.layer.{index}.attention.self.rotary_embeddings.inv_freq" for index in range(self.shape.num_layers)
        ]
        stored = [weights.take(name, head_dim // 2) for name in names if name in weights]
        if not stored:
            return 10000 ** -(torch.arange(0, head_dim, 2, device=self._device).float() / head_dim)
        weights.check("rotary_embeddings.inv_freq differs between layers", all(map(stored[0].equal, stored)))
        return stored[0].to(self._device)

    def _take_dense(self, weights: Weights, name: str, num_out: int, num_in: int) -> tuple[Tensor, Tensor]:
        return weights.take(f"{name}.weight", num_out, num_in), weights.take(f"{name}.bias", num_out)

    def _dense(self, weights: Weights, name: str, num_out: int, num_in: int) -> Dense:
        return self._placed(*self._take_dense(weights, name, num_out, num_in))

    def _placed(self, weight: Tensor, bias: Tensor) -> Dense:
        return Dense(weight, bias, device=self._device, dtype=self._dtype)

    def _norm(self, weights: Weights, name: str) -> Norm:
        hidden = self.shape.hidden
        weight, bias = (weights.take(f"{name}.{part}", hidden).to(self._device) for part in ("weight", "bias"))
        return Norm(weight, bias, self.shape.layer_norm_eps)


_QKV = ("query", "key", "value")


def random_weights(shape: Esm2Shape, seed: int, device: str = "cpu") -> dict[str, Tensor]:
    """Random tensors of the true shapes under the published names, for untrained models and tests.

    One seed gives one set of numbers on each kind of device.
    """
    generator = torch.Generator(device).manual_seed(seed)
    std = 0.7 * shape.hidden**-0.5

    def normal(*size: int) -> Tensor:
        return torch.empty(size, device=device).normal_(0.0, std, generator=generator)

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + normal(shape.hidden), f"{name}.bias": normal(shape.hidden)}

    def dense(name: str, num_out: int, num_in: int) -> dict[str, Tensor]:
        return {f"{name}.weight": normal(num_out, num_in), f"{name}.bias": normal(num_out)}

    tensors = {"esm.embeddings.word_embeddings.weight": normal(shape.vocabulary, shape.hidden) * 30}
    for index in range(shape.num_layers):
        name = f"esm.encoder.layer.{index}."
        for part in _QKV:
            tensors |= dense(f"{name}attention.self.{part}", shape.hidden, shape.hidden)
        exponents = torch.arange(0, shape.head_dim, 2).float() / shape.head_dim
        tensors[f"{name}attention.self.rotary_embeddings.inv_freq"] = 1.0 / 10000**exponents
        tensors |= dense(f"{name}attention.output.dense", shape.hidden, shape.hidden)
        tensors |= norm(f"{name}attention.LayerNorm") | norm(f"{name}LayerNorm")
        tensors |= dense(f"{name}intermediate.dense", shape.intermediate, shape.hidden)
        tensors |= dense(f"{name}output.dense", shape.hidden, shape.intermediate)
    return tensors | norm("esm.encoder.emb_layer_norm_after")
