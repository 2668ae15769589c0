"""Slow oracles and random checkpoints for the engine's tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_embed.engine.encoder import Encoder
from hpc_embed.engine.tokens import residue_table
from hpc_embed.engine.weights import random_weights
from hpc_embed.families.esm2 import ESM2, RESIDUES, esm2_shape
from hpc_embed.families.family import Family, Shape

CPU = torch.device("cpu")
SMALL = esm2_shape(3, 80)
TINY = esm2_shape(6, 320)
"""The true shape of ESM-2 8M."""
PROTEINS = [
    b"M",
    b"MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVV",
    b"GIGAVLKVLTTGLPALISWIKRKRQQ",
    b"ACDEFGHIKLMNPQRSTVWYXBUZO",
    b"KALTARQQEVFDLIRDHISQTGMPPTRAEIAQRLGFRSPNAAEEHLKALARKGVIEIVSGASRGIRLLQEEEEGLPLVGRVAAGEPLLAQQHIEGHYQVDPSLFKPNADFLLRVSGMSMKDIGIMDGDLLAVHKTQDVRNGQVVVARIDDEVTVKRLKKQGNKVELLPENSEFKPIVVDLRQQSFTIEGLAVGVIRNGDWL",
    b"GG",
]


esm2_tokens = residue_table(RESIDUES)


def encoder_of(
    family: Family, shape: Shape, precision: str = "fp32", tensors: Mapping[str, Tensor] | None = None, seed: int = 3
) -> Encoder:
    """An encoder with random weights."""
    tensors = tensors or random_weights(family, shape, seed)
    return Encoder(family, shape, tensors, source="test", device=CPU, precision=precision)


def esm2_encoder(shape: Shape = SMALL, precision: str = "fp32", tensors: Mapping[str, Tensor] | None = None) -> Encoder:
    """An ESM-2."""
    return encoder_of(ESM2, shape, precision, tensors)


def dense_attention(
    q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, lengths: list[int], bias: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Softmax attention within each window by the textbook, in float64; the scale is in q, and the bias makes
    [H, n, n] of the distances j - i."""
    out, start = [], 0
    for length in lengths:
        q, k, v = (x[start : start + length].double().transpose(0, 1) for x in (q_THK, k_THK, v_THK))
        place = torch.arange(length)
        scores = q @ k.transpose(1, 2)
        if bias is not None:
            scores = scores + bias(place[None, :] - place[:, None]).double()
        out.append((scores.softmax(-1) @ v).transpose(0, 1))
        start += length
    return torch.cat(out)


def hiding(is_causal: bool, reach: int | None) -> Callable[[Tensor], Tensor]:
    """For `dense_attention`: no key behind the query, and none so many tokens away."""

    def bias(distance_NN: Tensor) -> Tensor:
        hidden_NN = torch.zeros_like(distance_NN, dtype=torch.bool)
        if is_causal:
            hidden_NN |= distance_NN > 0
        if reach is not None:
            hidden_NN |= (distance_NN >= reach) | (distance_NN <= -reach)
        return torch.zeros(distance_NN.shape).masked_fill(hidden_NN, float("-inf"))

    return bias


def random_tokens(lengths: list[int], seed: int = 0, low: int = 4, high: int = 24) -> list[NDArray[np.uint16]]:
    """Token arrays of given lengths."""
    generator = np.random.default_rng(seed)
    return [generator.integers(low, high, length).astype(np.uint16) for length in lengths]
