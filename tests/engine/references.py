"""Slow oracles and random checkpoints for the engine's tests."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_embed.engine.esm2 import Esm2, Esm2Shape, random_weights

CPU = torch.device("cpu")
SMALL = Esm2Shape(num_layers=3, hidden=80, num_heads=20, intermediate=320)
TINY = Esm2Shape(num_layers=6, hidden=320, num_heads=20, intermediate=1280)
"""The true shape of ESM-2 8M."""
PROTEINS = [
    b"M",
    b"MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVV",
    b"GIGAVLKVLTTGLPALISWIKRKRQQ",
    b"ACDEFGHIKLMNPQRSTVWYXBUZO",
    b"KALTARQQEVFDLIRDHISQTGMPPTRAEIAQRLGFRSPNAAEEHLKALARKGVIEIVSGASRGIRLLQEEEEGLPLVGRVAAGEPLLAQQHIEGHYQVDPSLFKPNADFLLRVSGMSMKDIGIMDGDLLAVHKTQDVRNGQVVVARIDDEVTVKRLKKQGNKVELLPENSEFKPIVVDLRQQSFTIEGLAVGVIRNGDWL",
    b"GG",
]


def esm2_encoder(
    shape: Esm2Shape = SMALL, precision: str = "fp32", tensors: Mapping[str, Tensor] | None = None
) -> Esm2:
    """An encoder with random weights."""
    return Esm2(shape, tensors or random_weights(shape, seed=3), source="test", device=CPU, precision=precision)


def dense_attention(q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, lengths: list[int], slopes: list[float]) -> Tensor:
    """Softmax attention within each window by the textbook, in float64; the scale is in q."""
    out, start = [], 0
    for length in lengths:
        q, k, v = (x[start : start + length].double().transpose(0, 1) for x in (q_THK, k_THK, v_THK))
        place = torch.arange(length)
        distance = (place[:, None] - place[None, :]).abs().double()
        scores = q @ k.transpose(1, 2) - torch.tensor(slopes).double()[:, None, None] * distance
        out.append((scores.softmax(-1) @ v).transpose(0, 1))
        start += length
    return torch.cat(out)


def dense_dnabert(tensors: Mapping[str, Tensor], tokens: list[int], num_heads: int, slopes: list[float]) -> Tensor:
    """DNABERT-2's forward pass by the textbook, dense and padded to twice the length, in float32."""
    w = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    num_tokens, hidden = len(tokens), w["embeddings.word_embeddings.weight"].shape[1]
    padded = torch.tensor(tokens + [3] * num_tokens)
    is_real = torch.arange(2 * num_tokens) < num_tokens
    x = w["embeddings.word_embeddings.weight"][padded] + w["embeddings.token_type_embeddings.weight"][0]
    x = _norm(x, w, "embeddings.LayerNorm")
    place = torch.arange(2 * num_tokens)
    bias = -torch.tensor(slopes)[:, None, None] * (place[:, None] - place[None, :]).abs()
    bias = bias.masked_fill(~is_real, float("-inf"))
    for layer in range(sum(name.endswith("Wqkv.weight") for name in w)):
        name = f"encoder.layer.{layer}."
        qkv = x @ w[f"{name}attention.self.Wqkv.weight"].T + w[f"{name}attention.self.Wqkv.bias"]
        q, k, v = qkv.view(-1, 3, num_heads, hidden // num_heads).permute(1, 2, 0, 3)
        scores = q @ k.transpose(1, 2) / math.sqrt(hidden // num_heads) + bias
        mixed = (scores.softmax(-1) @ v).permute(1, 0, 2).reshape(-1, hidden)
        mixed = mixed @ w[f"{name}attention.output.dense.weight"].T + w[f"{name}attention.output.dense.bias"]
        x = _norm(mixed + x, w, f"{name}attention.output.LayerNorm")
        both = x @ w[f"{name}mlp.gated_layers.weight"].T
        half = both.shape[1] // 2
        gate = 0.5 * both[:, :half] * (1 + torch.erf(both[:, :half] / math.sqrt(2)))
        inner = (gate * both[:, half:]) @ w[f"{name}mlp.wo.weight"].T + w[f"{name}mlp.wo.bias"]
        x = _norm(inner + x, w, f"{name}mlp.layernorm")
    return x[:num_tokens]


def _norm(x: Tensor, w: Mapping[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-12).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def random_tokens(lengths: list[int], seed: int = 0, low: int = 4, high: int = 24) -> list[NDArray[np.uint16]]:
    """Token arrays of given lengths."""
    generator = np.random.default_rng(seed)
    return [generator.integers(low, high, length).astype(np.uint16) for length in lengths]
