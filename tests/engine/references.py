"""Slow oracles and random checkpoints for the engine's tests."""

from __future__ import annotations

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


def random_tokens(lengths: list[int], seed: int = 0, low: int = 4, high: int = 24) -> list[NDArray[np.uint16]]:
    """Token arrays of given lengths."""
    generator = np.random.default_rng(seed)
    return [generator.integers(low, high, length).astype(np.uint16) for length in lengths]
